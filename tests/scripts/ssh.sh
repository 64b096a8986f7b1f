# ssh to a machine that no address leads to: sshd behind listen, ssh before pipe.
set -eu
host=$1
here=$(pwd)
ready() { until grep -qs Listening "$1"; do sleep 0.1; done; }

ssh-keygen -q -t ed25519 -N '' -f host_key
ssh-keygen -q -t ed25519 -N '' -f user_key
cp user_key.pub authorized_keys
cat > sshd_config <<EOF
HostKey $here/host_key
AuthorizedKeysFile $here/authorized_keys
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
EOF

peercli listen --id "$host" --exec "$(command -v sshd) -i -e -f $here/sshd_config" --allow-anyone 2> sshd.log &
listener=$!
ready sshd.log

printf 'otter %s\n' "$(cat host_key.pub)" > known_hosts
cat > ssh_config <<EOF
Host otter
  ProxyCommand peercli pipe $host
  IdentityFile $here/user_key
  UserKnownHostsFile $here/known_hosts
  BatchMode yes
EOF

[ "$(ssh -F ssh_config otter 'echo here; cat' < known_hosts)" = "here
$(cat known_hosts)" ]
status=0
ssh -F ssh_config otter 'exit 7' || status=$?
[ "$status" = 7 ]

head -c 1000000 /dev/urandom > photo.raw
scp -q -F ssh_config photo.raw "otter:$here/copy.raw"
cmp photo.raw copy.raw
kill "$listener"
echo 'ssh works'
