#!/bin/sh
# Makes development certificates for every container of docker-compose.yml, once, each into the volume of its node.
set -eu
ca=/identities/ca
[ -e $ca/complete ] && exit 0
parley ca init --dir $ca
parley ca issue --dir $ca --role coordinator --name coordinator --hosts coordinator,localhost --out /identities/coordinator
parley ca issue --dir $ca --role dealer --name dealer --hosts dealer,localhost --out /identities/dealer
for party in alice bob carol; do
  parley ca issue --dir $ca --role party --name $party --hosts $party,localhost --out /identities/$party
done
parley ca issue --dir $ca --role submitter --name submitter --hosts localhost --out /identities/submitter
touch $ca/complete
