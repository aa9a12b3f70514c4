#!/bin/sh
# fakeroot with its messages and semaphores from System V, as dpkg-buildpackage uses it: a user
# who is not root makes a package whose files belong to root and others.

. "${0%/*}/users.sh"

if [ "$(id -u)" = 0 ]; then
    chown nobody "$work"
    as() {
        setpriv --reuid nobody --regid nogroup --clear-groups env HOME="$work" "$@"
    }
else
    as() {
        "$@"
    }
fi

under() {
    if [ -n "${REGION:-}" ]; then
        as "$VSHMEM" run --region "$REGION" -- "$@"
    else
        as "$VSHMEM" run -- "$@"
    fi
}

files=${SMALL:+20}
files=${files:-200}
source=$work/tiny-1.0
mkdir -p "$source/debian/source"
cd "$source"
echo 3.0 '(native)' >debian/source/format
cat >debian/control <<CONTROL
Source: tiny
Section: misc
Priority: optional
Maintainer: Nobody <nobody@example.org>
Rules-Requires-Root: binary-targets
Standards-Version: 4.6.2

Package: tiny
Architecture: all
Description: some files of several owners
CONTROL
cat >debian/changelog <<LOG
tiny (1.0) unstable; urgency=low

  * Everything.

 -- Nobody <nobody@example.org>  Thu, 01 Jan 2026 00:00:00 +0000
LOG
cat >debian/rules <<RULES
#!/usr/bin/make -f
t = debian/tiny
clean:
	rm -rf \$t debian/files
build build-arch build-indep binary-arch:
binary binary-indep:
	mkdir -p \$t/DEBIAN \$t/usr/share/tiny \$t/dev
	for n in \$\$(seq $files); do echo \$\$n >\$t/usr/share/tiny/\$\$n; done
	chown -R root:root \$t
	chown 1234:5678 \$t/usr/share/tiny/1
	chmod 4755 \$t/usr/share/tiny/2
	mknod \$t/dev/tiny c 10 200
	test "\$\$(stat -c %u:%g \$t/usr/share/tiny/1)" = 1234:5678
	[ -z "$VSHMEM" ] || '$VSHMEM' ipcs >$work/during
	dpkg-gencontrol -ptiny -P\$t
	dpkg-deb --build \$t ..
RULES
chmod 755 debian/rules
[ "$(id -u)" != 0 ] || chown -R nobody "$source"

say "fakeroot"
under dpkg-buildpackage -b -us -uc -d -rfakeroot-sysv >"$work/build.log" 2>&1 ||
    fail "the package cannot be built"
queues=$(sed -n '/Message Queues/,/^$/p' "$work/during" | grep -c '^0x')
sets=$(sed -n '/Semaphore Arrays/,/^$/p' "$work/during" | grep -c '^0x')
[ "$queues" = 2 ] && [ "$sets" = 1 ] ||
    fail "fakeroot has $queues queues and $sets sets in the region: not 2 and 1"

list=$(dpkg-deb --contents "$work/tiny_1.0_all.deb")
expect() {
    echo "$list" | grep -Eq "$1" || fail "the package has no '$1'"
}
expect '^-rw-r--r-- 1234/5678 .* ./usr/share/tiny/1$'
expect '^-rwsr-xr-x root/root .* ./usr/share/tiny/2$'
expect '^crw-r--r-- root/root  *10,200 .* ./dev/tiny$'
[ "$(echo "$list" | grep -c 'root/root')" = $((files + 5)) ] ||
    fail "not all of them belong to root"
nothing_left
nothing_ever_in_the_kernel
say "done"
