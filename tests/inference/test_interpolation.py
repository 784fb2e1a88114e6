from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_segformer.inference.arrays import NumpyArrays, PaddleArrays
from paddleseg_segformer.inference.interpolation import bilinear, crop, flip, place

pytestmark = pytest.mark.check

PAIRS = [(8, 32), (7, 29), (33, 13), (16, 16), (1, 5), (100, 97), (2, 3), (64, 7)]


@pytest.mark.parametrize(("num_inputs", "num_outputs"), [*PAIRS, (8, 1)])
def test_bilinear_with_aligned_corners(num_inputs, num_outputs) -> None:
    x = np.random.rand(num_inputs)
    matrix = bilinear(num_inputs, num_outputs, align_corners=True).dense()
    at = np.linspace(0, num_inputs - 1, num_outputs)
    np.testing.assert_allclose(matrix @ x, np.interp(at, np.arange(num_inputs), x), atol=1e-12)


@pytest.mark.parametrize(("num_inputs", "num_outputs"), PAIRS)
def test_bilinear_equals_paddle(num_inputs, num_outputs) -> None:
    x = np.random.rand(1, 1, num_inputs, 3).astype(np.float32)
    size = [num_outputs, 3]
    expected = F.interpolate(paddle.to_tensor(x), size=size, mode="bilinear").numpy()[0, 0]
    matrix = bilinear(num_inputs, num_outputs).dense()
    np.testing.assert_allclose(matrix @ x[0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(1), 1.0)
    assert (matrix >= 0).all()


def test_other_maps() -> None:
    x = np.arange(5.0)
    assert (crop(5, 3).dense() @ x).tolist() == [0, 1, 2]
    assert (flip(5).dense() @ x).tolist() == [4, 3, 2, 1, 0]
    placed = place(5, 2, 9, np.full(5, 0.5))
    assert (placed.dense() @ x).tolist() == [0, 0, 0, 0.5, 1, 1.5, 2, 0, 0]
    assert placed.output_range == (2, 7)
    assert (placed.reversed().dense() @ x).tolist() == [0, 0, 2, 1.5, 1, 0.5, 0, 0, 0]


def test_composition_equals_the_product_of_matrices() -> None:
    share = 1 / np.random.randint(1, 4, 23)
    chain = [bilinear(6, 23), place(23, 17, 40, share), flip(40), bilinear(40, 31), crop(31, 29)]
    chain.append(bilinear(29, 61))
    path, product = chain[0], chain[0].dense()
    for outer in chain[1:]:
        path, product = path.then(outer), outer.dense() @ product
    np.testing.assert_allclose(path.dense(), product, atol=1e-15)
    rows = np.flatnonzero(product.any(1))
    assert path.output_range == (rows[0], rows[-1] + 1)


@pytest.mark.parametrize("span", [(0, 10), (17, 25), (55, 61), (0, 61)])
def test_block_is_the_part_that_matters(span) -> None:
    path = bilinear(6, 23).then(place(23, 10, 40, np.ones(23))).then(bilinear(40, 61))
    low, high = span
    expected = path.dense()[low:high]
    block = path.block(low, high, np.asarray)
    if not expected.any():
        assert block is None
        return
    first, matrix = block
    columns = np.flatnonzero(expected.any(0))
    assert (first, first + matrix.shape[1]) == (columns[0], columns[-1] + 1)
    np.testing.assert_array_equal(matrix, expected[:, columns[0] : columns[-1] + 1].astype("f4"))


def test_upsampling_keeps_few_neighbours() -> None:
    path = bilinear(256, 1024).then(place(1024, 0, 1024, np.ones(1024))).then(bilinear(1024, 1500))
    assert path.weights.shape[1] <= 3


@pytest.mark.parametrize("arrays", [NumpyArrays, PaddleArrays])
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(20, 31), (20, 13), (20, 20)])
def test_gather_of_a_part(num_inputs, num_outputs, axis, arrays) -> None:
    x = np.random.rand(1, 2, num_inputs, num_inputs).astype(np.float32)
    part = bilinear(num_inputs, num_outputs).part(4, 11)
    first, last = part.input_range
    used = x.take(range(first, last), axis)
    found = arrays.to_numpy(part.gather(arrays.matrix(used), axis, arrays, offset=first))
    expected = np.moveaxis(np.tensordot(part.dense(), x, (1, axis)), 0, axis)
    np.testing.assert_allclose(found, expected, atol=1e-6)
