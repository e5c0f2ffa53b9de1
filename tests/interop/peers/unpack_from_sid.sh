#!/bin/sh
# Unpack packages of Debian sid below a directory, without installing them. This fits packages
# that run on any release: source code and Java archives.
# Usage: unpack_from_sid.sh DIRECTORY PATTERN PACKAGE...
# PATTERN is a regular expression for the names of the packages and dependencies to unpack.
set -eu
directory=$1 pattern=$2
shift 2
mkdir -p "$directory/apt/lists/partial" "$directory/apt/cache/archives/partial" "$directory/root"
cd "$directory/apt"
directory=$PWD
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] http://deb.debian.org/debian sid main" > sources.list
: > status
cat > apt.conf <<END
Dir::Etc::sourcelist "$directory/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$directory/lists";
Dir::State::status "$directory/status";
Dir::Cache "$directory/cache";
APT::Sandbox::User "root";
END
export APT_CONFIG="$directory/apt.conf"
apt-get -q update
packages=$(apt-get -s --no-install-recommends install "$@" | awk '/^Inst/ { print $2 }' | grep -E "$pattern")
apt-get -q download $packages
for package in *.deb; do
    dpkg-deb --extract "$package" ../root
    rm "$package"
done
