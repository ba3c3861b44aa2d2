#!/bin/sh
# mmdebstrap calls this with the new root directory: give Debian's Python the face of the official image.
set -eu
root=$1
version=$(chroot "$root" /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

rm -f "$root/usr/lib/python$version/EXTERNALLY-MANAGED"

# The interpreter that the official image keeps under /usr/local, and its standard library.
for name in python python3 "python$version"; do
    ln -sf "/usr/bin/python$version" "$root/usr/local/bin/$name"
done
mkdir -p "$root/usr/lib/python$version/dist-packages"
rm -rf "${root:?}/usr/local/lib/python$version"
ln -s "/usr/lib/python$version" "$root/usr/local/lib/python$version"

# Debian's own pip package would bring packages without a RECORD, which pip then refuses to replace.
wheel=$(cd "$root" && ls usr/share/python-wheels/pip-*.whl)
chroot "$root" /usr/bin/python3 "/$wheel/pip" install --quiet --no-index --no-cache-dir --root-user-action=ignore "/$wheel"
ln -sf pip3 "$root/usr/local/bin/pip"

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/* "$root"/var/cache/debconf/*-old
