# A box for files, which tells whoever joins a pipe to it what it holds, and writes down who has left what.
set -eu
box=$1
ready() { until grep -qs "$1" "$2"; do sleep 0.1; done; }

printf 'one\n' > report.txt
mkdir album
printf 'two\n' > album/beach.jpg

peercli listen --id "$box" --save-dir box --exec 'ls -R box' --allow-anyone --json > events.json &
listener=$!
ready '"open"' events.json

peercli send-file "$box" report.txt album
peercli pipe "$box" < /dev/null > held.txt
ready '"sha256"' events.json
kill "$listener"
status=0
wait "$listener" || status=$?
[ "$status" = 143 ]

diff -r report.txt box/report.txt
diff -r album box/album
grep -x report.txt held.txt
grep -x beach.jpg held.txt
grep '"event": "saved"' events.json
