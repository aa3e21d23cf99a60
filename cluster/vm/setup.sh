#!/bin/bash
# Sets up a machine of `ray up`, on Debian 12 or what else has Python 3.11; again at each `ray up`, so it may.
#   setup.sh SERVER:/EXPORT    # NFS, of what all machines share
set -euo pipefail
cd "$(dirname "$0")"

sudo apt-get update -qq
sudo apt-get install -y -qq python3.11-venv nfs-common

sudo mkdir -p /mnt/mergenet
mountpoint -q /mnt/mergenet || sudo mount -t nfs4 -o hard "$1" /mnt/mergenet
[[ -w /mnt/mergenet ]] || sudo chown "$USER" /mnt/mergenet

python3.11 -m venv ~/mergenet
~/mergenet/bin/pip install --quiet --no-cache-dir -c constraints.txt dist/mergenet-*.whl

chmod 600 ~/.ray/auth_token # Ray writes it for all to read
touch ~/.bashrc
grep -q "$PWD/environment.sh" ~/.bashrc || sed -i "1i . $PWD/environment.sh" ~/.bashrc # before what is for terminals
