"""What sees what in a row with several answers."""

from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.runtime.packed import Branch, RowShape, lay_out

ROW = RowShape(3, (Branch(3, (10, 11, 12), 1.0), Branch(2, (20, 21), -1.0, owner=1)))


def test_a_row_is_prompt_answers_and_padding():
    layout = lay_out([ROW, RowShape(7, (Branch(7, (5,), 1.0),))])
    assert layout.positions[0].tolist() == [0, 1, 2, 3, 4, 2, 0]
    assert layout.fed.tolist() == [[0, 3, 10], [0, 4, 11], [0, 5, 20]]
    assert layout.read.tolist() == [
        [0, 2, 10, 0],
        [0, 3, 11, 0],
        [0, 4, 12, 0],
        [0, 1, 20, 1],
        [0, 5, 21, 1],
        [1, 6, 5, 0],
    ]
    assert layout.weights.tolist() == [1, 1, 1, -1, -1, 1]


def test_an_answer_sees_its_part_of_the_prompt_and_itself():
    seen = lay_out([ROW]).visible[0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


@given(st.integers(1, 9), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 20))
def test_every_column_sees_itself_and_nothing_later(prompt, answers, other):
    branches = tuple(Branch(prompt, tuple(range(n)), 1.0, i) for i, n in enumerate(answers))
    shape = RowShape(prompt, branches)
    visible = lay_out([shape, RowShape(other, (Branch(other, (1,), 1.0),))]).visible
    # Without a column that sees itself a softmax would be over nothing: NaN.
    assert visible.diagonal(dim1=1, dim2=2).all()
    assert not visible.triu(1).any()
    assert sum(row.reads for row in shape.split()) == shape.reads
    assert shape.length == prompt + sum(answers) - len(answers)
