"""Settings: what each source may say, which one wins, and what a mistake is told."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flashq.config import load_settings, read_token, token_file_warning
from flashq.errors import ConfigurationError
from flashq.settings import GIB, KIB, MIB, SETTINGS, ServerSettings

DOCS = Path(__file__).parents[1] / "docs" / "configuration.md"


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | str | None = None,
) -> ServerSettings:
    return load_settings(flags or {}, environ or {}, file)


def refusal(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | str | None = None,
) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(flags, environ, file)
    assert "\n" not in caught.value.message
    return caught.value


def toml(folder: Path, text: str) -> Path:
    path = folder / "flashq.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Defaults and precedence


def test_with_no_source_every_setting_has_its_default() -> None:
    assert load() == ServerSettings()
    assert ServerSettings().host == "127.0.0.1"
    assert ServerSettings().sync_mode == "always"
    assert ServerSettings().retention_ms is None


def test_flags_go_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = toml(tmp_path, 'port = 1\nmax_connections = 1\ncommit_threshold = 1\ndata_dir = "file"')
    environ = {"FLASHQ_PORT": "2", "FLASHQ_MAX_CONNECTIONS": "2", "FLASHQ_STORAGE": "memory"}
    settings = load({"port": "3", "max_connections": None}, environ, file)
    assert settings == ServerSettings(
        port=3, max_connections=2, commit_threshold=1, data_dir="file", storage="memory"
    )  # fmt: skip


def test_a_flag_can_take_back_a_retention_and_a_switch_of_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, 'retention_ms = "7d"\ninsecure = true')
    settings = load({"retention_ms": "none", "insecure": False}, {}, file)
    assert settings.retention_ms is None
    assert settings.insecure is False


def test_the_variable_names_the_file_unless_a_flag_does(tmp_path: Path) -> None:
    named = toml(tmp_path, "port = 1")
    other = tmp_path / "other.toml"
    other.write_text("port = 2")
    assert load({}, {"FLASHQ_CONFIG": str(named)}).port == 1
    assert load({}, {"FLASHQ_CONFIG": str(named)}, other).port == 2


def test_a_bad_value_is_refused_even_where_a_stronger_source_overrides_it(tmp_path: Path) -> None:
    assert "key port" in refusal({"port": "3"}, {}, toml(tmp_path, "port = 70000")).message
    assert "FLASHQ_PORT" in refusal({"port": "3"}, {"FLASHQ_PORT": "x"}).message


def test_variables_of_clients_and_of_others_are_left_alone() -> None:
    environ = {"FLASHQ_URL": "http://h", "FLASHQ_TOKEN": "t", "PATH": "/bin", "MY_FLASHQ_X": "1", "FLASHQ": "1"}
    assert load({}, environ) == ServerSettings()


# How values are written


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("port", "65535", 65535),
        ("segment_bytes", "1024", KIB),
        ("segment_bytes", "1KiB", KIB),
        ("segment_bytes", "64MiB", 64 * MIB),
        ("segment_bytes", "2GiB", 2 * GIB),
        ("retention_ms", "1", 1),
        ("retention_ms", "45s", 45_000),
        ("retention_ms", "30m", 1_800_000),
        ("retention_ms", "12h", 43_200_000),
        ("retention_ms", "7d", 604_800_000),
        ("retention_ms", "none", None),
        ("retention_bytes", "10GiB", 10 * GIB),
        ("sync_interval_s", "0.25", 0.25),
        ("sync_interval_s", "2", 2.0),
        ("insecure", "true", True),
        ("insecure", "1", True),
        ("insecure", "false", False),
        ("insecure", "0", False),
        ("sync_mode", "never", "never"),
        ("log_format", "json", "json"),
    ],
)
def test_a_flag_and_a_variable_read_the_same_text_alike(name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}), name) == value
    assert getattr(load({}, {SETTINGS[name].variable: text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("port", text) for text in ("", " 1", "1 ", "1\n", "+5", "-1", "1_0", "007", "0x10", "1.0", "1e3")),
        *(("port", text) for text in ("\uff18\uff10", "\u0663")),
        *(("port", text) for text in ("65536", "9" * 19, "9" * 5000, "8080s", "none", "tcp://10.0.0.1:80")),
        ("commit_threshold", "0"),
        ("max_connections", "0"),
        *(("segment_bytes", text) for text in ("1023", "2147483649", "3GiB", "64MB", "64mib", "64 MiB", "MiB")),
        *(("segment_bytes", text) for text in ("none", "64MiBKiB", "1.5GiB")),
        *(("retention_ms", text) for text in ("0", "-1", "7w", "7D", "d", "None", "200000000000d")),
        *(("sync_interval_s", text) for text in ("0", "0.0", "-1", "nan", "inf", "1e3", "1_0", ".5", "1.", "+1")),
        ("sync_interval_s", "86401"),
        *(("insecure", text) for text in ("yes", "True", "on", "", "2")),
        *(("sync_mode", text) for text in ("Always", "", "sometimes")),
        ("storage", "disk"),
        ("log_level", "trace"),
        *((name, text) for name in ("host", "data_dir", "token_file") for text in ("", "  ", "a\0b", "a\nb")),
    ],
)  # fmt: skip
def test_text_that_is_not_exactly_allowed_is_refused(name: str, text: str) -> None:
    setting = SETTINGS[name]
    for error, source in (
        (refusal({name: text}), f"flag {setting.flag}"),
        (refusal({}, {setting.variable: text}), f"variable {setting.variable}"),
    ):
        assert error.message.startswith(f"{name}: ")
        assert f"({source})" in error.message
        assert error.message.endswith(setting.kind.allowed)
        assert error.details["setting"] == name
        assert error.details["source"] == source
        assert len(error.message) < 400


def test_a_refusal_names_the_setting_the_value_the_source_and_what_is_allowed() -> None:
    assert refusal({}, {"FLASHQ_PORT": "99999"}).message == (
        "port: '99999' (variable FLASHQ_PORT) is not allowed; allowed: a whole number, from 0 to 65535"
    )
    assert SETTINGS["segment_bytes"].kind.allowed == (
        "a whole number, from 1KiB to 2GiB, in bytes or followed by KiB, MiB or GiB"
    )
    assert SETTINGS["retention_ms"].kind.allowed == (
        "a whole number, 1 or more, in milliseconds or followed by s, m, h or d, or none"
    )


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("port = 9000", "port", 9000),
        ('segment_bytes = "1MiB"', "segment_bytes", MIB),
        ("segment_bytes = 2048", "segment_bytes", 2048),
        ('retention_ms = "12h"', "retention_ms", 43_200_000),
        ('retention_bytes = "none"', "retention_bytes", None),
        ("sync_interval_s = 2", "sync_interval_s", 2.0),
        ("sync_interval_s = 0.5", "sync_interval_s", 0.5),
        ("insecure = true", "insecure", True),
        ('host = "::1"', "host", "::1"),
    ],
)
def test_the_file_takes_values_of_their_toml_type(tmp_path: Path, line: str, name: str, value: object) -> None:
    assert getattr(load({}, {}, toml(tmp_path, line)), name) == value


@pytest.mark.parametrize(
    "line",
    [
        'port = "9000"', "port = 9000.0", "port = true", "port = [1]", "port = 65536", "port = -1",
        'segment_bytes = "2048"', 'segment_bytes = ""', "segment_bytes = 1.5", "retention_ms = false",
        'commit_threshold = "10s"',
        'sync_interval_s = "1"', "sync_interval_s = true", "sync_interval_s = nan", "sync_interval_s = inf",
        'insecure = "true"', "insecure = 1", "host = 1", "sync_mode = 1", "data_dir = 2020-01-01", "token_file = false",
    ],
)  # fmt: skip
def test_the_file_refuses_a_value_of_another_type_or_out_of_range(tmp_path: Path, line: str) -> None:
    file = toml(tmp_path, line)
    key = line.split(" ")[0]
    assert f"(file {file}, key {key})" in refusal({}, {}, file).message


# Unknown names and unreadable files


def test_an_unknown_variable_gets_the_nearest_name_and_keeps_its_value_to_itself() -> None:
    error = refusal({}, {"FLASHQ_PROT": "hush"})
    assert error.message == "unknown variable FLASHQ_PROT; did you mean FLASHQ_PORT?"
    assert "hush" not in repr(error.details)
    assert "did you mean FLASHQ_TOKEN?" in refusal({}, {"FLASHQ_TOKENS": "hush"}).message
    assert "did you mean FLASHQ_DATA_DIR?" in refusal({}, {"FLASHQ_data_dir": "x"}).message
    assert "lists every setting" in refusal({}, {"FLASHQ_ZZZZ": "x"}).message


def test_an_unknown_key_gets_the_nearest_name_and_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, "sync-mode = 'never'")
    assert refusal({}, {}, file).message == f"unknown key 'sync-mode' in file {file}; did you mean sync_mode?"
    assert "unknown key 'server'" in refusal({}, {}, toml(tmp_path, "[server]\nport = 1")).message


def test_an_unknown_flag_gets_the_nearest_name() -> None:
    assert refusal({"prt": "1"}).message == "unknown flag 'prt'; did you mean --port?"


def test_a_token_in_the_file_is_refused_without_being_repeated(tmp_path: Path) -> None:
    error = refusal({}, {}, toml(tmp_path, 'token = "hush"'))
    assert "hush" not in error.message + repr(error.details)
    assert error.details["hint"] == "a token comes from --token-file or FLASHQ_TOKEN"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLASHQ_SERVICE_HOST", "10.0.0.1"),
        ("FLASHQ_SERVICE_PORT_HTTP", "8080"),
        ("FLASHQ_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("FLASHQ_PORT", "tcp://10.0.0.1:8080"),
    ],
)
def test_variables_that_kubernetes_adds_get_advice(name: str, value: str) -> None:
    assert "enableServiceLinks: false" in str(refusal({}, {name: value}).details["hint"])


@pytest.mark.parametrize(
    ("content", "reason"), [(b"port = \n", "line 1"), (b"port = 1\nport = 2\n", "line 2"), (b"\xff", "utf-8")]
)
def test_a_file_that_is_not_toml_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    message = refusal({}, {}, file).message
    assert str(file) in message
    assert reason in message


def test_a_file_that_cannot_be_read_is_refused_with_what_named_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    assert "(flag --config): No such file" in refusal({}, {}, missing).message
    assert "(variable FLASHQ_CONFIG): No such file" in refusal({}, {"FLASHQ_CONFIG": missing}).message
    assert "Is a directory" in refusal({}, {}, tmp_path).message
    assert "FLASHQ_CONFIG" in refusal({}, {"FLASHQ_CONFIG": ""}).message


# Listening beyond loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback_needs_no_token(host: str) -> None:
    assert load({"host": host}).host == host


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org", "::ffff:10.0.0.1"]
)
def test_any_other_host_needs_a_token_or_a_clear_word(host: str, tmp_path: Path) -> None:
    error = refusal({"host": host})
    for advice in ("(flag --host)", "--token-file", "FLASHQ_TOKEN", "--insecure", "127.0.0.1"):
        assert advice in error.message
    assert "variable FLASHQ_HOST" in refusal({}, {"FLASHQ_HOST": host}).message
    assert "key host" in refusal({}, {}, toml(tmp_path, f'host = "{host}"')).message
    refusal({"host": host}, {"FLASHQ_TOKEN": " "})
    assert load({"host": host, "insecure": True}).host == host
    assert load({"host": host, "token_file": "f"}).host == host
    assert load({"host": host}, {"FLASHQ_TOKEN": "t"}).host == host


# Names, origins and certificates


def test_a_list_is_repeated_as_a_flag_has_commas_in_a_variable_and_is_one_in_the_file(tmp_path: Path) -> None:
    two = ("a.example", "[::1]")
    assert load({"allow_host": ["A.example", "[::1]"]}).allow_host == two
    assert load({}, {"FLASHQ_ALLOW_HOST": "a.example, [::1]"}).allow_host == two
    assert load({}, {}, toml(tmp_path, 'allow_host = ["a.example", "[::1]"]')).allow_host == two
    assert load({"allow_host": []}, {"FLASHQ_ALLOW_HOST": "a"}).allow_host == ("a",), "a flag that was not given"
    assert load({"allow_host": ["none"]}, {"FLASHQ_ALLOW_HOST": "a"}).allow_host == ()
    assert load({}, {}, toml(tmp_path, "cors_origin = []")).cors_origin == ()


@pytest.mark.parametrize(
    "text", ["", ",", "a,", "a b", "a:80", "*", "*.example", "http://a", "-a", "a/b", "a\nb", "\u00e9"]
)
def test_a_name_of_this_server_is_a_name_or_an_address(text: str, tmp_path: Path) -> None:
    assert "(variable FLASHQ_ALLOW_HOST) is not allowed" in refusal({}, {"FLASHQ_ALLOW_HOST": text}).message
    refusal({"allow_host": [text]}) if text else None
    refusal({}, {}, toml(tmp_path, f"allow_host = {[text]}"))
    refusal({}, {}, toml(tmp_path, 'allow_host = "a"'))
    refusal({}, {}, toml(tmp_path, "allow_host = [1]"))


@pytest.mark.parametrize("text", ["https://a.example", "http://a:3000", "http://[::1]:1", "null", "app://x"])
def test_an_origin_is_written_as_browsers_write_it(text: str) -> None:
    assert load({"cors_origin": [text]}).cors_origin == (text,)


@pytest.mark.parametrize(
    "text", ["*", "a.example", "https://", "https://a/", "https://a/b", "https://*.a", "https://u@a", "https://a:",
             "//a", "https://a:080", "https://a b"],
)  # fmt: skip
def test_no_pattern_path_or_bare_name_is_an_origin(text: str) -> None:
    refusal({"cors_origin": [text]})


def test_a_certificate_and_its_key_come_together() -> None:
    assert load({"tls_cert": "c", "tls_key": "k"}).tls_key == "k"
    assert load({"tls_cert": "c"}, {"FLASHQ_TLS_KEY": "k"}).tls_key == "k"
    assert "tls_cert is given without tls_key" in refusal({"tls_cert": "c"}).message
    assert "tls_key is given without tls_cert" in refusal({}, {"FLASHQ_TLS_KEY": "k"}).message


# The token


def token_file(folder: Path, content: bytes) -> ServerSettings:
    path = folder / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    return ServerSettings(token_file=str(path))


def test_a_token_comes_stripped_from_the_file_before_the_variable(tmp_path: Path) -> None:
    assert read_token(ServerSettings(), {}) is None
    assert read_token(ServerSettings(), {"FLASHQ_TOKEN": "from-variable\n"}) == "from-variable"
    assert read_token(token_file(tmp_path, b"  from-file\r\n"), {"FLASHQ_TOKEN": "from-variable"}) == "from-file"


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_token_is_refused_and_never_means_no_token(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"the token is empty \(file "):
        read_token(token_file(tmp_path, content), {})
    with pytest.raises(ConfigurationError, match=r"the token is empty \(variable FLASHQ_TOKEN\)"):
        read_token(ServerSettings(), {"FLASHQ_TOKEN": content.decode()})


@pytest.mark.parametrize("content", [b"se cret", b"secret\nsecret", b"secr\xc3\xa9t", b"s" * 5000, b"secret\x1b"])
def test_a_token_that_no_header_could_carry_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    for settings, environ in (
        (token_file(tmp_path, content), {}),
        (ServerSettings(), {"FLASHQ_TOKEN": content.decode("utf-8")}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            read_token(settings, environ)
        assert caught.value.message.startswith("the token ")
        assert "secr" not in caught.value.message + repr(caught.value.details)


def test_a_token_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the token file .*No such file"):
        read_token(ServerSettings(token_file=str(tmp_path / "missing")), {})
    with pytest.raises(ConfigurationError, match="Is a directory"):
        read_token(ServerSettings(token_file=str(tmp_path)), {})


def test_a_token_file_open_to_other_users_is_worth_a_warning(tmp_path: Path) -> None:
    settings = token_file(tmp_path, b"secret")
    assert token_file_warning(ServerSettings()) is None
    assert token_file_warning(settings) is None
    (tmp_path / "token").chmod(0o644)
    assert "readable by other users (mode 0644)" in str(token_file_warning(settings))
    (tmp_path / "token").unlink()
    assert token_file_warning(settings) is None


# The table


def test_every_default_is_a_value_its_own_setting_takes() -> None:
    for setting in SETTINGS.values():
        if setting.default_text != "unset":
            assert setting.kind.from_text(setting.default_text) == setting.default


def test_settings_cannot_be_changed_once_loaded() -> None:
    settings: Any = load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1


def test_the_documentation_lists_exactly_the_settings_with_their_defaults() -> None:
    rows = re.findall(r"^\| `--.*$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [
        f"| `{s.flag}` | `{s.variable}` | `{s.name}` | `{s.default_text}` | {s.kind.allowed} | {s.meaning} |"
        for s in SETTINGS.values()
    ]
    assert [s.name for s in SETTINGS.values()] == [made.name for made in dataclasses.fields(ServerSettings)]


def test_the_file_shown_in_the_documentation_loads(tmp_path: Path) -> None:
    shown = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown) == 1
    settings = load({}, {}, toml(tmp_path, shown[0]))
    assert settings.segment_bytes == 256 * MIB
    assert set(tomllib.loads(shown[0])) <= set(SETTINGS)
