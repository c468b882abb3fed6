"""What is masked of a config's texts, and what is left."""

from __future__ import annotations

import time

import pytest

from meshtrio.config.secrets import is_secret_name, mask_text, mask_url, mask_words

SECRET = "hunter2"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "password",
            "DB_PASSWORD",
            "dbpassword",
            "--password",
            "--db-pass",
            "Passphrase",
            "PGPASS",
        ),
        *("TOKEN", "githubToken", "x-api-key", "apiKey", "APIKEY", "aws_secret_access_key"),
        *(
            "AUTH",
            "Authorization",
            "Cookie",
            "sessionId",
            "private.key",
            "credentials",
            "signature",
        ),
        *("DSN", "client_secret_2", "JWT", "webhookUrl", "accessKeyID"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "port",
        "keyboard",
        "monkey",
        "author",
        "spin",
        "password_file",
        "--token-path",
        "--level",
    ],
)
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("http://admin:hunter2@host:80/x", "http://***@host:80/x"),
        ("http://hunter2@host", "http://***@host"),
        ("postgres://u:hunter2/with@slash@db/x", "postgres://***@db/x"),
        ("u:hunter2@tcp(db:3306)/x", "***@tcp(db:3306)/x"),
        ("https://h/x?key=hunter2&other=hunter2#hunter2", "https://h/x?key=***&other=***#***"),
        ("https://h/x?a=hunter2;hunter2?hunter2=hunter2", "https://h/x?a=***;***?hunter2=***"),
        ("https://h/x?hunter2", "https://h/x?***"),
        ("https://h/x#hunter2", "https://h/x#***"),
        ("see http://u:hunter2@a and http://u:hunter2@b", "see http://***@a and http://***@b"),
        ("tcp://host:80", "tcp://host:80"),
        ("unix:/run/a@b", "unix:/run/a@b"),
        ("ops@example.org", "ops@example.org"),
        ("dns:///session.example:443", "dns:///session.example:443"),
        ("http:127.0.0.1/health?x=1", "http:127.0.0.1/health?x=1"),
    ],
)
def test_urls(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("--password=hunter2", "--password=***"),
        ("PASSWORD=hunter2 exec server", "PASSWORD=***"),
        ("exec server --port 80 --token hunter2", "exec server --port 80 --token ***"),
        ("Authorization: Bearer hunter2", "Authorization: ***"),
        ('{"api_key": "hunter2"}', '{"api_key": ***'),
        ("os.environ['TOKEN'] = 'hunter2'", "os.environ['TOKEN'] = ***"),
        ("a=1\nsecret:\n  hunter2", "a=1\nsecret:\n  ***"),
        ("connect(db, password='hun\\'ter2 hunter2')", "connect(db, password=***"),
        ("x => hunter, secret => hunter2", "x => hunter, secret => ***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "***"),
        ("9f86d081884c7d659a2feaa0c55ad015", "***"),
        ("ghp_abcdefghijklmnop", "***"),
        ("a1b2c3d4e5f6g7h8i9j0", "***"),
        ("123e4567-e89b-12d3-a456-426614174000", "***"),
        ("https://hooks.example/services/T0/B0/abcdefghijKLMNOPQ0123", "***"),
        ("sleep 5; exit 3", "sleep 5; exit 3"),
        ("/usr/lib/python3/dist-packages/a_long_name_of_a_program", None),
        ("/opt/Company2/bin/server-with-a-long-name", None),
        ("/tmp/tmp.Tv1Y3VQZtH/meshtrio/tests/plugins/minimal.py", None),
        ("--config=~/tmp.Tv1Y3VQZtH/meshtrio/tests/plugins/minimal.py", None),
        ("open('/tmp/tmp.Tv1Y3VQZtH/meshtrio/tests/plugins/minimal.py')", None),
        ("/srv/abcdefghijKLMNOPQ0123/x", "/srv/***/x"),
        ("--keys", "--keys"),
        ("--level=debug", "--level=debug"),
    ],
)
def test_texts(text: str, masked: str | None) -> None:
    shown = mask_text(text)
    if masked == "***" and "://" in text:
        assert "KLMNOPQ0123" not in shown
    else:
        assert shown == (text if masked is None else masked)


@pytest.mark.parametrize(
    ("words", "masked"),
    [
        (["mysql", "-phunter2", "-u", "root:hunter2"], ["mysql", "-p***", "-u", "***"]),
        (["server", "--token", "hunter2", "-v"], ["server", "--token", "***", "-v"]),
        (["server", "--token", "--hunter2", "-v"], ["server", "--token", "***", "-v"]),
        (["redis", "AUTH", "hunter2"], ["redis", "AUTH", "***"]),
        (["curl", "-H", "X: hunter2", "http://a:hunter2@b"], ["curl", "-H", "***", "http://***@b"]),
        (["env", "TOKEN=hunter2", "sh", "-c", "x"], ["env", "TOKEN=***", "sh", "-c", "x"]),
        (["auth-server", "--port", "80"], ["auth-server", "--port", "80"]),
        (["x", "-p80", "-path"], ["x", "-p80", "-p***"]),
        (["x", "-p", "80", "-p", "hunter2"], ["x", "-p", "80", "-p", "***"]),
        (["curl", "-HX: hunter2", "-ua:hunter2"], ["curl", "-H***", "-u***"]),
        (["curl", "--header=X: hunter2"], ["curl", "--header=***"]),
        (["curl", "--user=a:hunter2"], ["curl", "--user=***"]),
        (["env", "PLAIN=hunter2", "host=db"], ["env", "PLAIN=***", "host=db"]),
        (["python", "-u", "plugin.py"], ["python", "-u", "plugin.py"]),
        (["server", "-user", "token-service"], ["server", "-user", "token-service"]),
        (["{python}", "plugin.py", "-m", "a.b"], ["{python}", "plugin.py", "-m", "a.b"]),
        ([], []),
    ],
)
def test_words_of_a_command(words: list[str], masked: list[str]) -> None:
    assert mask_words(words) == masked


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "a=" * 10**6, "@" * 10**6, "--a " * 10**5, "[" * 10**6, " " * 10**6,
             "a'" * 10**5 + "=", "http://" * 10**5, "?" * 10**6, "A0b" * 10**5, "=:" * 10**5]
)  # fmt: skip
def test_hostile_texts_take_no_long_time(text: str) -> None:
    began = time.process_time()
    mask_text(text)
    assert time.process_time() - began < 3
