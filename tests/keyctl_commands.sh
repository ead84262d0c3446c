# Every command of keyctl(1) but those that watch: what it prints and its exit code. In a session of its own, so
# that what it makes goes with it. tests/t3_run_programs.py compares the kernel's answers with those of `wqfs run`.
s() { # KEYCTL ARGUMENTS...
    echo "\$ keyctl $*"
    keyctl "$@" 2>&1
    echo "rc $?"
}
named() { echo "is $1 $2"; }

if [ "${1:-}" != inside ]; then exec keyctl session - sh "$0" inside 2>&1; fi
named session "$(keyctl id @s)"
one=$(keyctl add user one first @s) && named one "$one"
two=$(printf piped | keyctl padd user two @s) && named two "$two"
ring=$(keyctl newring ring @s) && named ring "$ring"
s show @s
s id @s
s print "$one"
s pipe "$two" && echo
s read "$one"
s update "$one" changed
printf more | s pupdate "$one"
s print "$one"
s link "$one" "$ring"
s list "$ring"
s rlist "$ring"
s describe "$one"
s rdescribe "$one"
s rdescribe "$one" ,
s search @s user one
s search @s user nothing
s search @s user one "$ring"
s request user one
s request user nothing
s request2 user nothing information @s
printf x | s prequest2 user other @s
s move "$one" @s "$ring"
s move -f "$one" "$ring" @s
s setperm "$one" 0x3f3f0000
s setperm "$one" nonsense
s chown "$one" "$(id -u)"
s chgrp "$one" "$(id -g)"
s timeout "$one" 100
s timeout "$one" 0
s security "$one"
s unlink "$one" "$ring"
s unlink "$one"
s restrict_keyring "$ring"
s link "$two" "$ring"
s instantiate "$two" x @s
printf x | s pinstantiate "$two" @s
s negate "$two" 10 @s
s reject "$two" 10 rejected @s
s clear "$ring"
s revoke "$two"
s print "$two"
s reap
s reap -v
gone=$(keyctl add user gone x @s) && named gone "$gone"
s invalidate "$gone" # what it answers then depends on how far the kernel's collector is
keyctl add user purged x @s >/dev/null
s purge user purged
s purge user
s new_session
s show @s
s session called keyctl show @s
s supports capabilities
s supports invalidate
s nonsense
