# A folder is backed up onto another machine, straight into its file, and restored from there.
set -eu
box=$1
ready() { until grep -qs Listening "$1"; do sleep 0.1; done; }

mkdir -p photos/summer restored
head -c 3000000 /dev/urandom > photos/summer/beach.raw
echo 'a note' > 'photos/an odd – näme.txt'
ln -s summer/beach.raw photos/best

# The machine that keeps it:
peercli pipe --id "$box" > backup.tar 2> keeper.log &
keeper=$!
ready keeper.log
# The machine that has it:
tar c photos | peercli pipe "$box"
wait "$keeper"

# And back:
peercli pipe --id "$box-restore" < backup.tar 2> keeper.log &
keeper=$!
ready keeper.log
peercli pipe "$box-restore" < /dev/null | tar x -C restored
wait "$keeper"

diff -r --no-dereference photos restored/photos
echo 'photos are safe'
