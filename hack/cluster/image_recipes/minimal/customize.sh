#!/bin/sh
# mmdebstrap calls this with the new root directory: a shell, users, and nothing that no server needs.
set -eu
root=$1

chroot "$root" /usr/bin/busybox --install -s /usr/bin 2>/dev/null || true
# Not what the link leads to: its path counts from the new root, and here it means this machine's busybox, if it has one.
test -L "$root/usr/bin/sh"

find "$root/usr/share/doc" ! -type d ! -name copyright -delete
rm -rf "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/lintian "$root"/usr/share/initramfs-tools
rm -rf "$root"/usr/lib/*/gconv "$root"/usr/lib/*/cmake "$root"/usr/lib/*/pkgconfig
rm -f "$root"/usr/bin/dpkg* "$root"/usr/bin/rpm*

# What base-files would do when configured.
rmdir "$root/var/run"
ln -s /run "$root/var/run"

cat >"$root/etc/passwd" <<'USERS'
root:x:0:0:root:/root:/bin/sh
postgres:x:999:999::/var/lib/postgresql:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
USERS
cat >"$root/etc/group" <<'GROUPS'
root:x:0:
postgres:x:999:
nogroup:x:65534:
GROUPS
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
