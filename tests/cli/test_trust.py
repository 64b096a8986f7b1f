"""Who is let in, as two people at two shells see it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from datetime import datetime
from pathlib import Path

import pytest
import segno

from tests.cli.shell import Shell, fresh, random_file
from tests.commands import Command


@pytest.mark.parametrize("waiting", ["pipe", "listen --once", "receive-file -y"])
async def test_both_sides_end_with_10_where_the_secrets_differ(shell: Shell, waiting: str) -> None:
    box = fresh("box")
    command, *options = waiting.split()
    async with shell.peercli(command, *options, "--id", box, "--secret", "right") as there:
        await there.says("Listening as")
        verb = ["send-file", box, __file__] if command == "receive-file" else ["pipe", box]
        here = await shell.run(*verb, env={"PEERCLI_SECRET": "wrong"})
        assert here.code == await there.exit_code() == 10
        assert "does not know the same secret" in here.err
        assert "does not know the same secret" in there.stderr
        assert "hint:" in here.err


async def test_a_call_ends_with_10_where_the_secrets_differ(shell: Shell) -> None:
    box, media = fresh("box"), ["--video", "test", "--audio", "none", "--size", "320x240", "--fps", "5"]
    async with shell.peercli("call", "--id", box, "--secret", "right", *media) as there:
        await there.says("Listening as")
        here = await shell.run("call", box, "--secret", "wrong", *media)
        assert here.code == await there.exit_code() == 10
        assert "In a call" not in here.err + there.stderr


async def test_a_call_that_is_not_taken_is_told_of(shell: Shell) -> None:
    """Who declines proves who it is, where a secret is due; and says whom it has declined."""
    media = ["--video", "test", "--audio", "none", "--size", "320x240", "--fps", "5"]
    for trust in (["--secret", "right"], []):
        box, caller = fresh("box"), fresh("caller")
        async with shell.peercli("listen", "--id", box, *trust) as there:
            await there.says("Listening as")
            assert (await shell.run("call", box, "--id", caller, *trust, *media)).code == 8
            await there.says(f"Refused {caller}: its call is not wanted here")


async def test_a_secret_from_a_file(shell: Shell, tmp_path: Path) -> None:
    box = fresh("box")
    (tmp_path / "secret").write_text("right\n")
    async with shell.peercli("pipe", "--id", box, "--secret", "right") as there:
        await there.says("Listening as")
        there.end_input()
        done = await shell.run("pipe", box, "--secret-file", str(tmp_path / "secret"), input=b"all is well")
        assert done.code == 0
        assert await there.read() == b"all is well"
        assert await there.exit_code() == 0


async def test_a_listener_stays_and_tells_of_who_was_refused(shell: Shell) -> None:
    box = fresh("box")
    async with shell.peercli("listen", "--id", box, "--secret", "right", "--exec", "cat") as there:
        await there.says("Listening as")
        for arguments in (["--secret", "wrong"], []):
            done = await shell.run("connect", box, *arguments, input=b"hello\n")
            assert (done.code, done.out) == (10, b"")
            await there.says("Refused ")
        done = await shell.run("connect", box, "--secret", "right", "--wait", "5", input=b"hello\n")
        assert (done.code, done.out) == (0, b"hello\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--secret", ""],
        ["--secret", "-"],
        ["--secret", "x", "--secret-file", "/dev/null"],
        ["--secret-file", "/nowhere"],
        ["--secret-file", "/dev/null"],
    ],
    ids=" ".join,
)
async def test_a_secret_that_cannot_be_used(shell: Shell, arguments: list[str]) -> None:
    assert (await shell.run("pipe", "nobody", *arguments)).code == 2


# Codes ----------------------------------------------------------------------------------------


async def code_of(waiting: Command) -> list[str]:
    """What the other side types: the arguments of peercli."""
    await waiting.says("At the other end, type:\n    peercli ")
    command = next(line for line in waiting.stderr.splitlines() if "    peercli " in line)
    return command.split()[1:]


async def test_files_by_a_code(shell: Shell, tmp_path: Path) -> None:
    sent = random_file(tmp_path / "sent", 3 << 20)
    async with shell.peercli("send-file", str(sent)) as sender:
        command, code, *server = await code_of(sender)
        assert command == "receive-file"
        assert server == ["--server", shell.broker]
        done = await shell.run(command, code.upper(), "--save-dir", str(tmp_path / "in"))
        assert (done.code, await sender.exit_code()) == (0, 0)
        assert (tmp_path / "in" / "sent").read_bytes() == sent.read_bytes()
        assert (await shell.run(command, code, "-y")).code == 4, "the code is dead"


async def test_one_wrong_guess_ends_a_code(shell: Shell, tmp_path: Path) -> None:
    async with shell.peercli("send-file", "--code", __file__, "pyproject.toml") as sender:
        command, code, *_ = await code_of(sender)
        wrong = f"{code.partition('-')[0]}-aardvark-zucchini"
        done = await shell.run(command, wrong, "--save-dir", str(tmp_path))
        assert (done.code, await sender.exit_code()) == (10, 10)
        assert not os.listdir(tmp_path)


async def test_whoever_comes_second_with_a_code_disturbs_nobody(shell: Shell, tmp_path: Path) -> None:
    sent = random_file(tmp_path / "sent", 8 << 20)
    async with shell.peercli("send-file", str(sent), "--limit-rate", "2M") as sender:
        command, code, *_ = await code_of(sender)
        async with shell.peercli(command, code, "--save-dir", str(tmp_path / "in")) as receiver:
            await receiver.says("Receiving 1 file")
            receiver.process.send_signal(signal.SIGSTOP)  # so that it is not over before
            done = await shell.run(command, code, "--save-dir", str(tmp_path / "stolen"))
            receiver.process.send_signal(signal.SIGCONT)
            assert done.code == 10
            assert not any((tmp_path / "stolen").glob("*"))
            assert (await receiver.exit_code(), await sender.exit_code()) == (0, 0)
    assert (tmp_path / "in" / "sent").read_bytes() == sent.read_bytes()


@pytest.mark.parametrize(
    ("waiting", "coming"),
    [
        (["pipe", "--code"], []),
        (["listen", "--code", "--exec", "cat"], ["--wait", "5"]),
    ],
    ids=["pipe", "connect"],
)
async def test_other_commands_by_a_code(shell: Shell, waiting: list[str], coming: list[str]) -> None:
    async with shell.peercli(*waiting, "--code-length", "4") as there:
        command, code, *_ = await code_of(there)
        assert code.count("-") == 4
        there.end_input()
        done = await shell.run(command, code, *coming, input=b"hello\n")
        assert done.code == await there.exit_code() == 0
        assert b"hello\n" in (await there.read() or done.out)


async def test_the_receiver_may_make_the_code(shell: Shell, tmp_path: Path) -> None:
    async with shell.peercli("receive-file", "--code", "--save-dir", str(tmp_path)) as receiver:
        command, code, what, *_ = await code_of(receiver)
        assert (command, what) == ("send-file", "PATH...")
        assert (await shell.run(command, code, __file__)).code == await receiver.exit_code() == 0
        assert (tmp_path / Path(__file__).name).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["receive-file", "7-crossover-clockwork", "-y"],
        ["send-file", "/nowhere"],
        ["send-file", __file__, "--secret", "x"],
        ["pipe", "--code", "--code-length", "0"],
        ["pipe", "7-aardvark-zucchini", "--code"],
        ["pipe", "--verify"],
        ["pipe", "--code", "--allow", "somebody"],
        ["pipe", "--allow", "somebody:fly"],
        ["pair"],
        ["pair", "somebody", "--remember", "x"],
        ["pair", "--remember", "../x"],
    ],
    ids=" ".join,
)
async def test_what_makes_no_sense_with_codes(shell: Shell, arguments: list[str]) -> None:
    done = await shell.run(*arguments)
    assert done.code == (4 if "crossover" in str(arguments) else 2)


async def test_verify_shows_the_same_words_on_both_sides(shell: Shell) -> None:
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box, "--secret", "s", "--verify") as there:
        await there.says("Listening as")
        there.end_input()
        done = await shell.run("pipe", box, "--secret", "s", "--verify")
        words = await there.says("Compare with the other side: ")
        assert words in done.err
        assert len(words.split()) == 4


# Remembered peers -----------------------------------------------------------------------------


def homes(tmp_path: Path) -> tuple[dict[str, str], dict[str, str]]:
    return {"XDG_DATA_HOME": str(tmp_path / "lap")}, {"XDG_DATA_HOME": str(tmp_path / "desk")}


async def paired(shell: Shell, lap: dict[str, str], desk: dict[str, str]) -> None:
    async with shell.peercli("pair", "--remember", "laptop", env=desk) as there:
        command, code, *_ = await code_of(there)
        assert command == "pair"
        done = await shell.run(command, code, "--remember", "desk", env=lap)
        assert (done.code, await there.exit_code()) == (0, 0)
        assert "Remembered as desk: SHA256:" in done.err
        assert "Remembered as laptop: SHA256:" in there.stderr


async def test_a_remembered_peer_needs_no_code(shell: Shell, tmp_path: Path) -> None:
    lap, desk = homes(tmp_path)
    await paired(shell, lap, desk)
    async with shell.peercli(
        "listen", "--allow", "laptop", "--save-dir", str(tmp_path / "in"), env=desk
    ) as there:
        at = (await there.says("Listening as ")).strip()
        done = await shell.run("send-file", "desk", __file__, env=lap)
        assert done.code == 0
        assert (tmp_path / "in" / Path(__file__).name).exists()
        for stranger in (["connect", at], ["connect", at, "--id", fresh("laptop")]):
            assert (await shell.run(*stranger, input=b"hello\n", env=lap)).code == 10
        assert (await shell.run("id", "rotate", env=lap)).code == 0
        done = await shell.run("connect", "desk", input=b"hello\n", env=lap)
        assert done.code == 10
        assert "key" in done.err


async def test_a_changed_key_is_refused(shell: Shell, tmp_path: Path) -> None:
    lap, desk = homes(tmp_path)
    await paired(shell, lap, desk)
    known = await shell.run("id", "show", env=desk)
    at = next(line.split()[-1] for line in known.out.decode().splitlines() if "this peer" in line)
    await shell.run("id", "rotate", env=desk)
    async with shell.peercli("listen", "--allow", "laptop", "--id", at, env=desk) as there:
        await there.says("Listening as ")
        done = await shell.run("connect", "desk", input=b"hello\n", env=lap)
        assert (done.code, done.out) == (10, b"")
        assert "WARNING: the far side does not have the key that is remembered for desk" in done.err
        assert "hint: somebody may be in between" in done.err
        await there.says("Refused ")


async def test_pairing_fails_where_a_key_cannot_be_kept(shell: Shell, tmp_path: Path) -> None:
    """It is said before anybody comes, if it can be known then; else as soon as it is."""
    lap, desk = homes(tmp_path)
    async with shell.peercli("pair", "--remember", "laptop", env=desk) as there:
        command, code, *_ = await code_of(there)
        (tmp_path / "desk" / "peercli" / "peers.json").mkdir()
        done = await shell.run(command, code, "--remember", "desk", env=lap)
        assert (done.code, await there.exit_code()) == (0, 2)
        assert "Remembered" not in there.stderr
        assert "peers.json is not a file of ours" in there.stderr
    done = await shell.run("pair", "--remember", "laptop", env=desk)
    assert done.code == 2
    assert "peercli pair" not in done.err, "no code is given out"


async def test_pairing_takes_two(shell: Shell, tmp_path: Path) -> None:
    lap, desk = homes(tmp_path)
    async with shell.peercli("pair", "--remember", "laptop", env=desk) as there:
        _, code, *_ = await code_of(there)
        assert (await shell.run("connect", code, env=lap)).code == 0
        assert await there.exit_code() == 10
        assert "has not told its key" in there.stderr


@pytest.mark.parametrize("fault", ["mode", "link", "short", "folder mode"])
async def test_a_key_file_that_cannot_be_trusted(shell: Shell, tmp_path: Path, fault: str) -> None:
    lap, _ = homes(tmp_path)
    assert (await shell.run("id", "show", env=lap)).code == 0
    folder = tmp_path / "lap" / "peercli"
    key = folder / "identity"
    assert (key.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    match fault:
        case "mode":
            key.chmod(0o640)
        case "link":
            key.rename(tmp_path / "elsewhere")
            key.symlink_to(tmp_path / "elsewhere")
        case "short":
            key.write_text(key.read_text()[:20])
        case _:
            folder.chmod(0o755)
    done = await shell.run("id", "show", env=lap)
    assert done.code == 2
    assert str(folder) in done.err


async def test_a_call_by_a_code(shell: Shell, tmp_path: Path) -> None:
    media = ["--video", "test", "--audio", "none", "--size", "320x240", "--fps", "5"]
    record = ["--record", str(tmp_path / "call.webm"), "--duration", "2"]
    async with shell.peercli("call", "--code", *media, *record) as there:
        command, code, *_ = await code_of(there)
        assert command == "call"
        done = await shell.run(command, code, *media)
        assert (done.code, await there.exit_code()) == (0, 0)
    assert (tmp_path / "call.webm").stat().st_size


# Rules from the configuration file -------------------------------------------------------------


RULES = """\
[allow]
laptop = ["file", "message"]
{friend} = ["pipe"]
"""


async def test_rules_of_the_configuration_file(shell: Shell, tmp_path: Path) -> None:
    """A remembered peer, by its key, and a mere id: each may do what its line says, and nobody else may."""
    lap, desk = homes(tmp_path)
    await paired(shell, lap, desk)
    friend = fresh("friend")
    (tmp_path / "config.toml").write_text(RULES.format(friend=friend))
    options = ["--save-dir", str(tmp_path / "in"), "--config", str(tmp_path / "config.toml")]
    async with shell.peercli("listen", *options, env=desk) as there:
        at = (await there.says("Listening as ")).strip()
        mine = "pipe", at, "--send-only", "--id", friend
        for arguments, environment, code, said in (
            (("send-file", "desk", __file__), lap, 0, ""),
            (("connect", "desk"), lap, 0, ""),
            (("pipe", "desk", "--send-only"), lap, 8, "Refused laptop: its pipe is not wanted here"),
            (mine, {}, 0, ""),
            (("connect", at, "--id", friend), {}, 8, f"Refused {friend}: its message is not wanted here"),
            (("connect", at, "--id", fresh("other")), {}, 8, "Refused other"),
        ):
            done = await shell.run(*arguments, env=environment, input=b"hello\n")
            assert done.code == code, (arguments, done)
            if said:
                await there.says(said)
    assert (tmp_path / "in" / Path(__file__).name).exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[allow]\nlaptop = ["fly"]', 2),
        ("[allow]\nlaptop = true", 2),
        ('[listen.allow]\n\nlaptop = "file"', 3),
        ('[listen]\nallow = ["laptop:fly"]', 2),
    ],
)
async def test_rules_that_make_no_sense(shell: Shell, tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    for command in (["listen"], ["config", "check"]):
        done = await shell.run(*command, "--config", str(file))
        assert done.code == 2
        assert str(file) in done.err
    if "fly" not in text:
        assert f"{file}:{line}: " in done.err


# What is kept, and what is not to be seen -------------------------------------------------------


async def test_a_log_of_who_did_what(shell: Shell, tmp_path: Path) -> None:
    lap, desk = homes(tmp_path)
    await paired(shell, lap, desk)
    log = tmp_path / "log"
    rules = ["--allow", "laptop:message,file", "--save-dir", str(tmp_path / "in"), "--log", str(log)]
    async with shell.peercli("listen", *rules, "-q", env=desk) as there:
        while not log.exists() or '"open"' not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        at = json.loads(log.read_text().splitlines()[0])["id"]
        stranger = fresh("stranger")
        for arguments, code in (
            (["send-file", "desk", __file__], 0),
            (["connect", "desk", "--metadata", '"private"'], 0),
            (["pipe", "desk"], 8),
        ):
            assert (await shell.run(*arguments, input=b"private\n", env=lap)).code == code
        assert (await shell.run("connect", at, "--id", stranger, input=b"private\n")).code == 10
        while stranger not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        there.process.terminate()
        await there.exit_code()
    assert log.stat().st_mode & 0o777 == 0o600
    assert "private" not in log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    names = {line["connection"]: line["name"] for line in lines if line["event"] == "authenticated"}
    opened = [names[line["connection"]] for line in lines if line["event"] == "connection"]
    assert opened == ["laptop", "laptop"]
    saved = [line for line in lines if line["event"] == "saved"]
    assert [line["name"] for line in saved] == [Path(__file__).name]
    refusals = [(line["peer"], line["reason"]) for line in lines if line["event"] == "refused"]
    assert refusals == [("laptop", "declined"), (stranger, "no-secret")]


async def test_a_log_that_cannot_be_written(shell: Shell, tmp_path: Path) -> None:
    assert (await shell.run("listen", "--log", str(tmp_path))).code == 2
    box = fresh("box")
    async with shell.peercli("listen", "--id", box, "--once", "--log", "/dev/full") as there:
        await there.says("the log /dev/full cannot be written")
        assert (await shell.run("connect", box, input=b"hello\n")).code == 0
        assert await there.line() == "hello"
        assert await there.exit_code() == 9


def command_line(command: Command) -> bytes:
    """What everybody on this machine sees of it."""
    return Path(f"/proc/{command.process.pid}/cmdline").read_bytes()


@pytest.mark.parametrize("way", ["environment", "file"])
async def test_a_secret_is_not_to_be_seen(shell: Shell, tmp_path: Path, way: str) -> None:
    """Not among the processes, nor in what is said, logged or traced, however much is asked for."""
    box, log = fresh("box"), tmp_path / "log"
    secrets = {"here": "hush-is-the-word", "there": "hush-is-another"}

    def given(side: str) -> tuple[list[str], dict[str, str]]:
        if way == "environment":
            return ["-vvv"], {"PEERCLI_SECRET": secrets[side]}
        (tmp_path / side).write_text(secrets[side])
        return ["-vvv", "--secret-file", str(tmp_path / side)], {}

    options, environment = given("there")
    command = ["listen", "--once", "--json", "--id", box, "--log", str(log), "--exec", "env"]
    async with shell.peercli(*command, *options, env=environment) as there:
        assert there.process.stdout
        while '"open"' not in await there.line():
            pass
        assert b"hush" not in command_line(there)
        options, environment = given("here")
        done = await shell.run("connect", box, *options, env=environment)
        assert done.code == await there.exit_code() == 10
        assert "Traceback" in done.err
        said = done.out + done.err.encode() + await there.read() + there.stderr.encode() + log.read_bytes()
        assert b"hush" not in said
    (tmp_path / "config.toml").write_text('secret = "hush"\n')
    shown = await shell.run("config", "show", "--config", str(tmp_path / "config.toml"), env=environment)
    assert (shown.code, "hush" in shown.out.decode() + shown.err) == (0, False)


async def test_what_to_type_as_a_qr_code(shell: Shell) -> None:
    """As it is read from the screen."""
    async with shell.peercli("pipe", "--code", "--qr") as there:
        command = " ".join(["peercli", *await code_of(there)])
        lines = len(segno.make(command, error="l").matrix) + 2 * 4  # the quiet zone is 4 modules wide
        while there.stderr.count("\n") < 2 + (lines + 1) // 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    shades = {"█": (False, False), "▀": (False, True), "▄": (True, False), " ": (True, True)}
    seen: list[list[bool]] = []
    for line in there.stderr.splitlines()[2:]:
        halves = [shades[character] for character in re.sub(r"\x1b\[[0-9;]*m", "", line)]
        seen += [[upper for upper, _ in halves], [lower for _, lower in halves]]
    wanted = [[bool(module) for module in row] for row in segno.make(command, error="l").matrix]
    assert [row[4:-4] for row in seen[4 : 4 + len(wanted)]] == wanted
