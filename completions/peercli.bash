# Completion of peercli, made from its command tree by `peercli --show-completion`.

declare -gA _peercli_words=(
    ["-"]="listen connect send-file receive-file pipe call pair server peers doctor demo id config --version --install-completion --show-completion --help -h"
    ["listen-"]="--once --echo --exec --allow --allow-anyone --save-dir --max-peers --log --answer --file --video --audio --loop --size --fps --video-codec --bitrate --record --record-own --play --view --server --id --token --ice --relay --port-range --interface --no-reconnect --secret --secret-file --code --code-length --qr --remember --verify --json --quiet -q --verbose -v --config --profile --help -h"
    ["connect-"]="--input --serialization --label --metadata --unreliable --wait --keep-open -k --server --id --token --ice --relay --port-range --interface --secret --secret-file --code --code-length --qr --remember --verify --timeout --no-reconnect --json --quiet -q --verbose -v --config --profile --help -h"
    ["send-file-"]="--name --exclude --follow-symlinks --limit-rate --retry --server --id --token --ice --relay --port-range --interface --secret --secret-file --code --code-length --qr --remember --verify --timeout --json --quiet -q --verbose -v --config --profile --help -h"
    ["receive-file-"]="--save-dir --output -o --yes -y --on-conflict --max-size --keep-open --server --id --token --ice --relay --port-range --interface --timeout --allow --secret --secret-file --code --code-length --qr --remember --verify --json --quiet -q --verbose -v --config --profile --help -h"
    ["pipe-"]="--recv-only --send-only --progress --server --id --token --ice --relay --port-range --interface --allow --secret --secret-file --code --code-length --qr --remember --verify --timeout --no-reconnect --json --quiet -q --verbose -v --config --profile --help -h"
    ["call-"]="--file --video --audio --loop --size --fps --video-codec --bitrate --record --record-own --play --view --duration --metadata --list-devices --server --id --token --ice --relay --port-range --interface --allow --secret --secret-file --code --code-length --qr --remember --verify --timeout --json --quiet -q --verbose -v --config --profile --help -h"
    ["pair-"]="--server --id --token --ice --relay --port-range --interface --secret --secret-file --code --code-length --qr --remember --verify --timeout --json --quiet -q --verbose -v --config --profile --help -h"
    ["server-"]="--host --port --path --key --expire-timeout --alive-timeout --concurrent-limit --allow-discovery --cors --tls-cert --tls-key --proxied --auth-secret-file --keys-file --origin --turn --turn-secret-file --turn-lifetime --redis --share-port --drain --metrics --log-format --log-ids --json --quiet -q --verbose -v --config --profile --help -h"
    ["peers-"]="--server --json --quiet -q --verbose -v --config --profile --help -h"
    ["doctor-"]="--server --id --token --ice --relay --port-range --interface --secret --secret-file --code --code-length --qr --remember --verify --timeout --json --quiet -q --verbose -v --config --profile --help -h"
    ["demo-"]="--json --quiet -q --verbose -v --help -h"
    ["id-"]="show rotate --help -h"
    ["id show-"]="--json --quiet -q --verbose -v --help -h"
    ["id rotate-"]="--json --quiet -q --verbose -v --help -h"
    ["config-"]="path check show --help -h"
    ["config path-"]="--help -h"
    ["config check-"]="--config --help -h"
    ["config show-"]="--config --profile --help -h"
)
declare -gA _peercli_values=(
    [" --show-completion"]="bash zsh fish powershell"
    ["listen --exec"]=""
    ["listen --allow"]=""
    ["listen --save-dir"]="@folders"
    ["listen --max-peers"]=""
    ["listen --log"]="@files"
    ["listen --file"]=""
    ["listen --video"]="@files"
    ["listen --audio"]="@files"
    ["listen --size"]=""
    ["listen --fps"]=""
    ["listen --video-codec"]="vp8 h264"
    ["listen --bitrate"]=""
    ["listen --record"]="@files"
    ["listen --server"]=""
    ["listen --id"]="@ids"
    ["listen --token"]=""
    ["listen --ice"]=""
    ["listen --port-range"]=""
    ["listen --interface"]=""
    ["listen --secret"]=""
    ["listen --secret-file"]="@files"
    ["listen --code-length"]=""
    ["listen --remember"]=""
    ["listen --config"]="@files"
    ["listen --profile"]="@profiles"
    ["connect --input"]="text json"
    ["connect --serialization"]="binary json raw msgpack"
    ["connect --label"]=""
    ["connect --metadata"]=""
    ["connect --wait"]=""
    ["connect --server"]=""
    ["connect --id"]="@ids"
    ["connect --token"]=""
    ["connect --ice"]=""
    ["connect --port-range"]=""
    ["connect --interface"]=""
    ["connect --secret"]=""
    ["connect --secret-file"]="@files"
    ["connect --code-length"]=""
    ["connect --remember"]=""
    ["connect --timeout"]=""
    ["connect --config"]="@files"
    ["connect --profile"]="@profiles"
    ["send-file --name"]=""
    ["send-file --exclude"]=""
    ["send-file --limit-rate"]=""
    ["send-file --retry"]=""
    ["send-file --server"]=""
    ["send-file --id"]="@ids"
    ["send-file --token"]=""
    ["send-file --ice"]=""
    ["send-file --port-range"]=""
    ["send-file --interface"]=""
    ["send-file --secret"]=""
    ["send-file --secret-file"]="@files"
    ["send-file --code-length"]=""
    ["send-file --remember"]=""
    ["send-file --timeout"]=""
    ["send-file --config"]="@files"
    ["send-file --profile"]="@profiles"
    ["receive-file --save-dir"]="@folders"
    ["receive-file --output"]="@files"
    ["receive-file -o"]="@files"
    ["receive-file --on-conflict"]="resume rename overwrite skip fail"
    ["receive-file --max-size"]=""
    ["receive-file --server"]=""
    ["receive-file --id"]="@ids"
    ["receive-file --token"]=""
    ["receive-file --ice"]=""
    ["receive-file --port-range"]=""
    ["receive-file --interface"]=""
    ["receive-file --timeout"]=""
    ["receive-file --allow"]=""
    ["receive-file --secret"]=""
    ["receive-file --secret-file"]="@files"
    ["receive-file --code-length"]=""
    ["receive-file --remember"]=""
    ["receive-file --config"]="@files"
    ["receive-file --profile"]="@profiles"
    ["pipe --server"]=""
    ["pipe --id"]="@ids"
    ["pipe --token"]=""
    ["pipe --ice"]=""
    ["pipe --port-range"]=""
    ["pipe --interface"]=""
    ["pipe --allow"]=""
    ["pipe --secret"]=""
    ["pipe --secret-file"]="@files"
    ["pipe --code-length"]=""
    ["pipe --remember"]=""
    ["pipe --timeout"]=""
    ["pipe --config"]="@files"
    ["pipe --profile"]="@profiles"
    ["call --file"]=""
    ["call --video"]="@files"
    ["call --audio"]="@files"
    ["call --size"]=""
    ["call --fps"]=""
    ["call --video-codec"]="vp8 h264"
    ["call --bitrate"]=""
    ["call --record"]="@files"
    ["call --duration"]=""
    ["call --metadata"]=""
    ["call --server"]=""
    ["call --id"]="@ids"
    ["call --token"]=""
    ["call --ice"]=""
    ["call --port-range"]=""
    ["call --interface"]=""
    ["call --allow"]=""
    ["call --secret"]=""
    ["call --secret-file"]="@files"
    ["call --code-length"]=""
    ["call --remember"]=""
    ["call --timeout"]=""
    ["call --config"]="@files"
    ["call --profile"]="@profiles"
    ["pair --server"]=""
    ["pair --id"]="@ids"
    ["pair --token"]=""
    ["pair --ice"]=""
    ["pair --port-range"]=""
    ["pair --interface"]=""
    ["pair --secret"]=""
    ["pair --secret-file"]="@files"
    ["pair --code-length"]=""
    ["pair --remember"]=""
    ["pair --timeout"]=""
    ["pair --config"]="@files"
    ["pair --profile"]="@profiles"
    ["server --host"]=""
    ["server --port"]=""
    ["server --path"]=""
    ["server --key"]=""
    ["server --expire-timeout"]=""
    ["server --alive-timeout"]=""
    ["server --concurrent-limit"]=""
    ["server --cors"]=""
    ["server --tls-cert"]="@files"
    ["server --tls-key"]="@files"
    ["server --auth-secret-file"]="@files"
    ["server --keys-file"]="@files"
    ["server --origin"]=""
    ["server --turn"]=""
    ["server --turn-secret-file"]="@files"
    ["server --turn-lifetime"]=""
    ["server --redis"]=""
    ["server --drain"]=""
    ["server --log-format"]="text json"
    ["server --config"]="@files"
    ["server --profile"]="@profiles"
    ["peers --server"]=""
    ["peers --config"]="@files"
    ["peers --profile"]="@profiles"
    ["doctor --server"]=""
    ["doctor --id"]="@ids"
    ["doctor --token"]=""
    ["doctor --ice"]=""
    ["doctor --port-range"]=""
    ["doctor --interface"]=""
    ["doctor --secret"]=""
    ["doctor --secret-file"]="@files"
    ["doctor --code-length"]=""
    ["doctor --remember"]=""
    ["doctor --timeout"]=""
    ["doctor --config"]="@files"
    ["doctor --profile"]="@profiles"
    ["config check --config"]="@files"
    ["config show --config"]="@files"
    ["config show --profile"]="@profiles"
)
declare -gA _peercli_places=(
    ["connect-"]="@ids"
    ["send-file-"]="@ids @files*"
    ["receive-file-"]="@ids"
    ["pipe-"]="@ids"
    ["call-"]="@ids"
    ["pair-"]="@ids"
    ["doctor-"]="@ids"
    ["config show-"]="@nothing"
)

_peercli_offer() {
    local line
    case $1 in
        @files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        @folders) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        @ids | @profiles)
            while IFS= read -r line; do
                COMPREPLY+=("$(printf %q "$line")")
            done < <(peercli complete "${1#@}" "$cur" 2>/dev/null) ;;
        @*) ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur") ;;
    esac
}

_peercli() {
    local cur=${COMP_WORDS[COMP_CWORD]} command= word= previous= option= position=0 i places
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        # bash cuts words at : and =, which ids and addresses may hold
        if [[ $word == [:=] || $previous == [:=] ]]; then previous=$word; continue; fi
        previous=$word
        if [[ $option ]]; then option=; continue; fi
        if [[ ${_peercli_words[${command:+$command }$word-]+there} ]]; then
            command=${command:+$command }$word
        elif [[ ${_peercli_values["$command $word"]+there} ]]; then
            option=$word
        elif [[ $word != -* ]]; then
            ((position++))
        fi
    done
    if [[ $cur == [:=] || $previous == [:=] ]]; then return; fi
    if [[ $option ]]; then
        _peercli_offer "${_peercli_values["$command $option"]}"
        return
    fi
    read -ra places <<< "${_peercli_places[$command-]}"
    if [[ $cur == -* || ${#places[@]} == 0 ]]; then
        _peercli_offer "${_peercli_words[$command-]}"
    elif [[ ${places[-1]} == *\* && $position -ge ${#places[@]} ]]; then
        _peercli_offer "${places[-1]%\*}"
    else
        _peercli_offer "${places[position]%\*}"
    fi
}
complete -F _peercli peercli
