# Completion of peercli, made from its command tree by `peercli --show-completion`.

$PeercliWords = @{
    '' = @('listen', 'connect', 'send-file', 'receive-file', 'pipe', 'call', 'pair', 'server', 'peers', 'doctor', 'demo', 'id', 'config', '--version', '--install-completion', '--show-completion', '--help', '-h')
    'listen' = @('--once', '--echo', '--exec', '--allow', '--allow-anyone', '--save-dir', '--max-peers', '--log', '--answer', '--file', '--video', '--audio', '--loop', '--size', '--fps', '--video-codec', '--bitrate', '--record', '--record-own', '--play', '--view', '--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--timeout', '--no-reconnect', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'connect' = @('--input', '--serialization', '--label', '--metadata', '--unreliable', '--wait', '--keep-open', '-k', '--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--timeout', '--no-reconnect', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'send-file' = @('--name', '--exclude', '--follow-symlinks', '--limit-rate', '--retry', '--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--timeout', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'receive-file' = @('--save-dir', '--output', '-o', '--yes', '-y', '--on-conflict', '--max-size', '--keep-open', '--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--timeout', '--allow', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'pipe' = @('--recv-only', '--send-only', '--progress', '--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--allow', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--timeout', '--no-reconnect', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'call' = @('--file', '--video', '--audio', '--loop', '--size', '--fps', '--video-codec', '--bitrate', '--record', '--record-own', '--play', '--view', '--duration', '--metadata', '--list-devices', '--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--allow', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--timeout', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'pair' = @('--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--timeout', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'server' = @('--host', '--port', '--path', '--key', '--expire-timeout', '--alive-timeout', '--concurrent-limit', '--allow-discovery', '--cors', '--tls-cert', '--tls-key', '--proxied', '--auth-secret-file', '--keys-file', '--origin', '--turn', '--turn-secret-file', '--turn-lifetime', '--redis', '--share-port', '--drain', '--metrics', '--log-format', '--log-ids', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'peers' = @('--server', '--timeout', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'doctor' = @('--server', '--id', '--token', '--ice', '--relay', '--port-range', '--interface', '--secret', '--secret-file', '--code', '--code-length', '--qr', '--remember', '--verify', '--timeout', '--json', '--quiet', '-q', '--verbose', '-v', '--config', '--profile', '--help', '-h')
    'demo' = @('--json', '--quiet', '-q', '--verbose', '-v', '--help', '-h')
    'id' = @('show', 'rotate', '--help', '-h')
    'id show' = @('--json', '--quiet', '-q', '--verbose', '-v', '--help', '-h')
    'id rotate' = @('--json', '--quiet', '-q', '--verbose', '-v', '--help', '-h')
    'config' = @('path', 'check', 'show', '--help', '-h')
    'config path' = @('--help', '-h')
    'config check' = @('--config', '--help', '-h')
    'config show' = @('--config', '--profile', '--help', '-h')
}
$PeercliValues = @{
    ' --show-completion' = @('bash', 'zsh', 'fish', 'powershell')
    'listen --video-codec' = @('vp8', 'h264')
    'connect --input' = @('text', 'json')
    'connect --serialization' = @('binary', 'json', 'raw', 'msgpack')
    'receive-file --on-conflict' = @('resume', 'rename', 'overwrite', 'skip', 'fail')
    'call --video-codec' = @('vp8', 'h264')
    'server --log-format' = @('text', 'json')
}
$PeercliAsks = @{
    'listen --id' = 'ids'
    'listen --profile' = 'profiles'
    'connect --id' = 'ids'
    'connect --profile' = 'profiles'
    'send-file --id' = 'ids'
    'send-file --profile' = 'profiles'
    'receive-file --id' = 'ids'
    'receive-file --profile' = 'profiles'
    'pipe --id' = 'ids'
    'pipe --profile' = 'profiles'
    'call --id' = 'ids'
    'call --profile' = 'profiles'
    'pair --id' = 'ids'
    'pair --profile' = 'profiles'
    'server --profile' = 'profiles'
    'peers --profile' = 'profiles'
    'doctor --id' = 'ids'
    'doctor --profile' = 'profiles'
    'config show --profile' = 'profiles'
}
$PeercliTakesId = @('connect', 'send-file', 'receive-file', 'pipe', 'call', 'pair', 'doctor')

Register-ArgumentCompleter -Native -CommandName peercli -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $command = ''
    $previous = ''
    foreach ($element in $commandAst.CommandElements | Select-Object -Skip 1) {
        if ($element.Extent.EndOffset -ge $cursorPosition) { break }
        $previous = "$element"
        $longer = "$command $previous".Trim()
        if ($PeercliWords.ContainsKey($longer)) { $command = $longer }
    }
    $found = if ($PeercliValues.ContainsKey("$command $previous")) { $PeercliValues["$command $previous"] }
        elseif ($PeercliAsks.ContainsKey("$command $previous")) {
            peercli complete $PeercliAsks["$command $previous"] "$wordToComplete" 2>$null
        }
        elseif ($PeercliTakesId -contains $command -and -not "$wordToComplete".StartsWith('-')) {
            peercli complete ids "$wordToComplete" 2>$null
        }
        else { $PeercliWords[$command] }
    $found | Where-Object { $_ -like "$wordToComplete*" } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
