"""Untrusted text is made harmless, and the same story counts once."""

from datetime import UTC, datetime, timedelta

import pytest

from qaicl.errors import BadDatasetError
from qaicl.oracle.observations import Headline
from qaicl.oracle.sentiment import dataset
from qaicl.oracle.sentiment.stories import stories
from qaicl.oracle.sentiment.text import clean

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def headline(title, hours=0.0, outlet="Daily", **more):
    return Headline(
        source="rss:test",
        outlet=outlet,
        title=title,
        published_at=NOON + timedelta(hours=hours),
        fetched_at=NOON,
        sha256="00",
        **more,
    )


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Bitcoin &amp; ether <b>rise</b>", "Bitcoin & ether rise"),
        ("<script>alert(1)</script>Coin falls", "alert(1) Coin falls"),
        ("Read https://evil.example/x?y=1 now", "Read now"),
        ("two\nlines\tand \x1b[31mcolour\x07", "two lines and [31mcolour"),
        ("pay\u200bload \u202etxet\u202c", "payload txet"),
        ("\uff26\uff35\uff2c\uff2c width", "FULL width"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("\x00\ufeff", ""),
    ],
)
def test_untrusted_text_becomes_plain(raw, plain):
    assert clean(raw) == plain


def test_endless_text_is_cut():
    assert len(clean("a" * 100_000)) == 1000
    assert clean("<" * 50_000).startswith("<")


def test_a_syndicated_story_counts_once():
    told = stories(
        [
            headline("Exchange halts all withdrawals after hack - CoinWire", 1, "CoinWire"),
            headline("Exchange halts all withdrawals after hack", 0, "Daily"),
            headline("EXCHANGE HALTS ALL WITHDRAWALS AFTER THE HACK!", 3, "Echo"),
            headline("Bitcoin rises", 2),
        ]
    )
    assert [(story.title, story.carriers, story.copies) for story in told] == [
        ("Exchange halts all withdrawals after hack", ("Daily", "CoinWire", "Echo"), 3),
        ("Bitcoin rises", ("Daily",), 1),
    ]


def test_the_order_of_the_headlines_does_not_matter():
    given = [headline("Coin up", i, outlet) for i, outlet in enumerate("abcd")] + [headline("Coin down", 1)]
    assert stories(given) == stories(given[::-1])


def test_the_same_words_days_later_are_a_new_story():
    assert len(stories([headline("Bitcoin price today"), headline("Bitcoin price today", 49)])) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "Bitcoin rises 5% after decision of the Federal Reserve",
            "Bitcoin falls 5% after decision of the Federal Reserve",
        ),
        ("Bitcoin climbs to a record high, investors cheer", "Ether climbs to a record high, investors cheer"),
        ("Exchange was hacked", "Exchange was not hacked"),
    ],
)
def test_stories_that_differ_in_one_word_stay_apart(one, other):
    assert len(stories([headline(one), headline(other)])) == 2


def test_a_title_without_a_word_is_left_out():
    assert stories([headline("!!! 🚀"), headline("")]) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'text,label\n"Up, up",1\nDown,negative\n', [("Up, up", "positive"), ("Down", "negative")]),
        (
            "a.jsonl",
            '{"text":"Up","label":"Positive"}\n\n{"text":"So","label":2}\n',
            [("Up", "positive"), ("So", "neutral")],
        ),
        ("a.txt", "Mail me @ noon .@neutral\nUp@positive\n", [("Mail me @ noon .", "neutral"), ("Up", "positive")]),
    ],
)
def test_labelled_files_of_every_form_are_read(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_text(content)
    assert [(example.text, example.label) for example in dataset.read(path)] == expected


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", "headline,label\nUp,1\n", "columns"),
        ("a.csv", "text,label\nUp,9\n", "line 2"),
        ("a.jsonl", '{"text":"Up","label":1}\n{"text":', "line 2"),
        ("a.txt", "no label here\n", "line 1"),
        ("a.txt", "\n", "empty"),
    ],
)
def test_a_bad_labelled_file_is_refused_with_its_place(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadDatasetError, match=why):
        dataset.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadDatasetError, match="No such file"):
        dataset.read(tmp_path / "none.csv")
    with pytest.raises(BadDatasetError, match="No such file"):
        dataset.read_texts(tmp_path / "none.jsonl")


def test_the_written_headlines_are_many_balanced_and_apart():
    train, heldout, apart = dataset.headlines("train"), dataset.headlines("heldout"), dataset.headlines("apart")
    assert len(train) >= 900
    assert len(heldout) >= 150
    hard = dataset.headlines("hard")
    assert len(apart) >= 240
    assert len(hard) >= 1000
    for part in (train, heldout, apart, hard):
        shares = [sum(one.label == label for one in part) / len(part) for label in dataset.LABELS]
        assert min(shares) > 0.3
    assert not {one.topic for one in train} & {one.topic for one in heldout}
    words = [frozenset(clean(one.text).casefold().split()) for one in train + heldout + apart + hard]
    assert len(set(words)) == len(words)
