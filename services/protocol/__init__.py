# @generated from protos/ by `python -m services.build_protocol`; not to be edited.
"""Generated stubs of the protocol in `protos/`."""
