# What ffmpeg makes, or takes from wherever it can, is called through; the other side records it.
set -eu
id=$1
ready() { until grep -qs Listening "$1"; do sleep 0.1; done; }

peercli call --id "$id" --video none --audio none --record call.mkv 2> record.log &
recorder=$!
ready record.log

ffmpeg -loglevel error -re -f lavfi -i testsrc=size=320x240:rate=15 -f lavfi -i sine=frequency=440 -t 6 \
  -c:v mpeg2video -c:a mp2 -f mpegts - |
  peercli call "$id" --file - --quiet
wait "$recorder"

ffprobe -loglevel error -show_entries stream=codec_type -of csv=p=0 call.mkv | sort > streams
printf 'audio\nvideo\n' | diff - streams
seconds=$(ffprobe -loglevel error -show_entries format=duration -of csv=p=0 call.mkv)
echo "$seconds seconds"
[ "${seconds%%.*}" -ge 2 ]
