# One image for coordinator, dealer, party and submitter: `parley` with its dependencies, under a user of its own.
# Packages come from wheels/ where `make wheels` has filled it, else from the index; always the exact versions of
# constraints.txt. An index may hold only CUDA builds of PyTorch for Linux: then fill wheels/ with a CPU build first.
FROM python:3.11-slim AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore PIP_QUIET=1

# Dependencies first, so that a change of the code does not install them again. (A pattern without a match is no error.)
# What only a compiler of PyTorch extensions or a test of PyArrow reads is left out: 200 MB.
# (Some packages carry files in the language of a newer Python: that these do not compile is no error.)
COPY pyproject.toml constraints.txt wheels* wheels/
RUN mv wheels/pyproject.toml wheels/constraints.txt . \
 && python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > requirements.txt \
 && if ls wheels/*.whl >/dev/null 2>&1; then from="--no-index --find-links wheels"; else from=; fi \
 && python3 -m venv --without-pip /opt/parley \
 && python3 -m pip --python /opt/parley install $from -c constraints.txt -r requirements.txt \
 && python3 -m pip install $from -c constraints.txt hatchling \
 && cd /opt/parley/lib/python3.11/site-packages \
 && rm -rf torch/include torch/test pyarrow/include pyarrow/tests \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && { /opt/parley/bin/python -m compileall -q -q -j 0 . || true; }

COPY LICENSE README.m[d] ./
COPY parley parley
COPY services services
COPY party_node party_node
COPY dealer dealer
COPY coordinator coordinator
RUN hatchling build -t wheel -d dist \
 && python3 -m pip --python /opt/parley install --compile --no-index --no-deps dist/*.whl

FROM python:3.11-slim
# A named volume takes the owner of the folder that it is mounted on.
ARG IDENTITIES="ca coordinator dealer alice bob carol submitter"
RUN groupadd --gid 10001 parley \
 && useradd --uid 10001 --gid parley --home-dir /var/lib/parley --no-create-home --shell /usr/sbin/nologin parley \
 && install -d -o parley -g parley -m 0750 /var/lib/parley /etc/parley /etc/parley/identity /data /results \
 && for name in $IDENTITIES; do install -d -o parley -g parley -m 0750 "/identities/$name"; done
ENV PATH=/opt/parley/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/parley /opt/parley
USER parley
WORKDIR /var/lib/parley
ENTRYPOINT ["parley"]
CMD ["--help"]
