#!/bin/sh
# Registers the datasets of /data that the party does not know yet, then serves in the foreground: party.sh CONFIG
set -eu
config=$1
for registration in /data/*.yaml; do
  parley data add "$registration" --config "$config"
done
exec parley party serve --config "$config"
