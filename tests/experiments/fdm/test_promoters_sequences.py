"""Real DNA: reading files of sequences, motifs in their places, distances of sets of sequences."""

import collections
import gzip

import numpy as np
import pytest
import scipy.stats

from experiments.fdm._promoters import measures, motifs, sequences


def _text(letters):
    return ["".join(sequences.LETTERS[i] for i in row) for row in letters]


def test_a_table_is_read_with_its_split_and_its_classes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "label,sequence,split\nx,ACGT,train\ny,ttga,test\nx,CCNC,train\ny,GGGG,train\nx,AAAA,test\n"
    )
    found = sequences.read(str(path), "label", 4)
    np.testing.assert_array_equal(found.train.letters, [[0, 1, 2, 3], [2, 2, 2, 2]])
    np.testing.assert_array_equal(found.held_out.letters, [[3, 3, 2, 0], [0, 0, 0, 0]])
    assert (found.train.labels.tolist(), found.held_out.labels.tolist()) == ([0, 1], [1, 0])
    assert found.classes == ("x", "y")
    alone = sequences.read(str(path), "", 4)
    assert alone.classes == ("",)
    assert alone.train.labels.tolist() == [0, 0]
    assert sequences.fingerprint(found) != sequences.fingerprint(alone)


def test_numbers_become_classes_of_as_many_training_sequences(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a.csv.gz"
    values = rng.lognormal(size=2000)
    rows = [f"{s},{v}" for s, v in zip(_text(rng.choice(4, (2000, 8))), values, strict=True)]
    path.write_bytes(gzip.compress("\n".join(["sequence,expression", *rows]).encode()))
    found = sequences.read(str(path), "expression", 4)
    assert (len(found.train.labels), len(found.held_out.labels)) == (1800, 200)
    assert np.bincount(found.train.labels).tolist() == [450] * 4
    edge = float(found.classes[0].split(" to ")[1])
    assert np.mean(values < edge) == pytest.approx(0.25, abs=0.02)
    again = sequences.read(str(path), "expression", 4)
    assert sequences.fingerprint(again) == sequences.fingerprint(found)


def test_fasta_and_lines_give_the_same_letters(tmp_path):
    rows = _text(np.random.default_rng(0).choice(4, (30, 12)))
    lines, fasta = tmp_path / "a.txt", tmp_path / "a.fa.gz"
    lines.write_text("\n".join(rows) + "\n\n")
    records = [f">{i} name\n{row[:7]}\n{row[7:].lower()}\n" for i, row in enumerate(rows)]
    fasta.write_bytes(gzip.compress("".join(records).encode()))
    found = [sequences.read(str(path), "", 4) for path in (lines, fasta)]
    assert sequences.fingerprint(found[0]) == sequences.fingerprint(found[1])
    assert sorted(_text(np.concatenate([part.letters for part in found[0][:2]]))) == sorted(rows)


@pytest.mark.parametrize(
    ("name", "text", "condition", "words"),
    [
        ("a.txt", "ACGT\nACXT\n", "", r"a\.txt, line 2: the letter 'X' is none of"),
        ("a.txt", "ACGT\nACG\n", "", r"a\.txt, line 2: a sequence of 3 letters, .* has 4"),
        ("a.txt", "", "", "has no sequences"),
        ("a.txt", "ACGT\nACGT\n", "", "0 sequences to train on and 2 held out"),
        ("a.txt", "ACGT\n", "label", "has no columns, so there is no 'label'"),
        ("a.csv", "sequence\nACGT\n", "label", "no column 'label', only sequence"),
        ("a.csv", "", "label", "no column 'sequence', only no line"),
        ("a.csv", "sequence,label\nACGT\n", "label", "line 2: fewer columns"),
        ("a.csv", "sequence,split\nACGT,val\n", "", "line 2: split is 'val'"),
        ("a.csv", "sequence,a\nACGT,nan\nACGT,1\nAAAA,2\nCCCC,3\n", "a", "is not finite"),
        ("a.csv", "sequence,a\nACGT,x\nACGT,y\nAAAA,z\nCCCC,u\n", "a", "4 classes of 4 sequences"),
        ("a.fasta", "ACGT\n>b\nACGT\n", "", r"a\.fasta, line 1: a FASTA file begins"),
        ("a.txt.gz", "ACGT\n", "", r"a\.txt\.gz cannot be read as text \(Not a gzipped file"),
        ("b", None, "", "no file .*one sequence in each line"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(name, text, condition, words, tmp_path):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, OSError), match=words):
        sequences.read(str(path), condition, 4)


def test_scores_and_hits_by_hand():
    shares = np.array([0.2, 0.3, 0.3, 0.2])
    motif = motifs.Motif("a", np.array([[9, 0], [0, 1], [1, 0], [0, 9]]), (-3, -1))
    table = motifs.weights(motif, shares)
    assert table[0, 0] == pytest.approx(np.log((9.2 / 11) / 0.2))
    assert table[2, 1] == pytest.approx(np.log((0.3 / 11) / 0.3))
    rng = np.random.default_rng(0)
    letters = rng.choice(4, size=(40, 12)).astype(np.int8)
    found = motifs.hits(letters, motif, shares)
    assert found.shape == (40, 11)
    pairs = {(0, 3)}  # AT alone is within a fifth of the way
    expected = [[tuple(row[i : i + 2]) in pairs for i in range(11)] for row in letters]
    np.testing.assert_array_equal(found, expected)
    acts = motifs.acting(found, motif, 6)
    np.testing.assert_array_equal(acts, [any(row[3:6]) for row in expected])
    assert 0 < acts.sum() < 40


def test_the_likeliest_sites_are_found_at_their_places_alone():
    rng, start = np.random.default_rng(0), 60
    letters = rng.choice(4, size=(50, 100)).astype(np.int8)
    sites = ("GTATAAAAGGCGGGG", "TCAGTCTT")  # Bucher (1990)
    for motif, site, place in zip(motifs.MOTIFS, sites, (28, 58), strict=True):
        codes = np.array([sequences.LETTERS.index(letter) for letter in site])
        assert motif.counts.argmax(axis=0).tolist() == codes.tolist()
        letters[:, place : place + len(codes)] = codes
    for motif, place in zip(motifs.MOTIFS, (28, 58), strict=True):
        found = motifs.hits(letters, motif, np.full(4, 0.25))
        assert found[:, place].all()
        assert found[:, :20].mean() < 0.2
        assert motifs.acting(found, motif, start).all()
        assert not motifs.acting(found, motif, start + 30).all()
    motifs.check_start(start, 100)
    for start, length in ((39, 100), (93, 100)):
        with pytest.raises(ValueError, match=f"--start {start} is no start site"):
            motifs.check_start(start, length)


def test_distances_by_position_and_by_words():
    rng = np.random.default_rng(0)
    ours = rng.choice(4, size=(50, 9), p=[0.4, 0.3, 0.2, 0.1]).astype(np.int8)
    theirs = rng.choice(4, size=(70, 9)).astype(np.int8)
    found = measures.by_position(ours, theirs)
    p, q = (
        np.array([(np.bincount(column, minlength=4) + 0.5) / (len(x) + 2) for column in x.T])
        for x in (ours, theirs)
    )
    assert found["tv"] == pytest.approx(np.abs(p - q).sum() / 2 / 9)
    assert found["kl"] == pytest.approx(scipy.stats.entropy(q.T, p.T).mean())
    assert found["reverse_kl"] == pytest.approx(scipy.stats.entropy(p.T, q.T).mean())
    words = measures.by_words(ours, theirs)
    for word in measures.WORDS:
        counts = [
            collections.Counter(row[i : i + word] for row in _text(x) for i in range(10 - word))
            for x in (ours, theirs)
        ]
        totals = [sum(count.values()) for count in counts]
        every = set(counts[0]) | set(counts[1])
        gaps = [abs(counts[0][w] / totals[0] - counts[1][w] / totals[1]) for w in every]
        assert words[f"words_{word}"] == pytest.approx(sum(gaps) / 2)
    assert measures.sp_mse(lambda x: x[:, 0], ours[:2], theirs[:2]) == pytest.approx(
        np.mean((ours[:2, 0] - theirs[:2, 0]) ** 2.0)
    )


def test_partners_are_different_and_have_the_labels():
    rng = np.random.default_rng(0)
    labels, wanted = rng.choice(2, 100), rng.choice(2, 30)
    places = measures.paired(rng, labels, wanted)
    assert len(set(places)) == 30
    np.testing.assert_array_equal(labels[places], wanted)
    with pytest.raises(ValueError, match=r"1 training sequences of class 1, and 2 are wanted"):
        measures.paired(rng, np.array([0, 0, 1]), np.array([1, 1]))
