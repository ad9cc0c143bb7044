// 3x3 convolutions by Winograd's F(2x2, 3x3) (Lavin and Gray, 2016, section 4.1), with 16 products instead of 36 for
// each tile of 2x2 outputs. Included by kernels.cpp.
//
// For a tile of 2x2 outputs, the 4x4 inputs d that it depends on, and the weights g:
//   output = A' [sum over input channels of (G g G') * (B' d B)] A
// The gradient of g is G' [sum over tiles of (B' d B) * (A dy A')] G. Both sums are 16 matrix products, one for each
// element of the transformed 4x4 tile. The order of a sum does not depend on other tiles, so the output of a tile does
// not either.
//
// Matrices are stored in panels of kPanel columns: [columns / kPanel, rows, kPanel].
#pragma once

#include "kernels_numbers.inl"

namespace admiral {
namespace {

// Elements of a transformed tile.
constexpr int64_t kElements = 16;
// Rows of the weights that are rearranged together: a few cache lines of each column.
constexpr int64_t kWeightRows = 16;
// Padding between rows that are written together. Without it, rows with a power of two of columns would map to the same
// few sets of the first-level cache.
constexpr int64_t kStagger = 16;
// Rows and vectors of columns of a product that are summed together, as many as fit in registers.
#if defined(__AVX512F__)
constexpr int64_t kRows = 8, kColumns = 2;
#else
constexpr int64_t kRows = 4, kColumns = 2;
#endif
static_assert(kPanel % (kColumns * kLanes) == 0 && kPanel % kRows == 0, "panels consist of whole blocks");

// Returns the offset of an element in a matrix with `rows` rows.
inline int64_t panel_offset(int64_t rows, int64_t row, int64_t column) {
  return (column / kPanel * rows + row) * kPanel + column % kPanel;
}

inline Floats load(const float* from) { return load(AllLanes{}, from); }
inline void store(float* to, Floats values) { store(AllLanes{}, to, values); }

// The sums of kRows rows of a panel in registers: values[row] += a[row * row_step + l * step] * b[l], where b has rows
// of kPanel columns.
struct Sums {
  Floats values[kRows][kColumns] = {};

  void read(const float* from) {
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t j = 0; j < kColumns; ++j) values[i][j] = load(from + i * kPanel + j * kLanes);
  }

  void write(float* to) const {
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t j = 0; j < kColumns; ++j) store(to + i * kPanel + j * kLanes, values[i][j]);
  }

  inline __attribute__((always_inline)) void add(const float* a, int64_t row_step, int64_t step, const float* b,
                                                 int64_t length) {
    for (int64_t l = 0; l < length; ++l) {
      Floats columns[kColumns];
      for (int64_t j = 0; j < kColumns; ++j) columns[j] = load(b + l * kPanel + j * kLanes);
      for (int64_t i = 0; i < kRows; ++i) {
        // The compiler simplifies x - 0 to x and broadcasts it to all lanes. It would compute x + 0.
        const Floats one = a[i * row_step + l * step] - Floats{};
        for (int64_t j = 0; j < kColumns; ++j) values[i][j] += one * columns[j];
      }
    }
  }
};

// out [rows, outputs] = a [rows, inputs] * b [inputs, outputs]. `rows` is a multiple of kRows.
inline void multiply(const float* a, const float* b, float* out, int64_t rows, int64_t inputs, int64_t outputs) {
  for (int64_t panel = 0; panel < outputs / kPanel; ++panel)
    for (int64_t column = 0; column < kPanel; column += kColumns * kLanes)
      for (int64_t row = 0; row < rows; row += kRows) {
        Sums sums;
        for (int64_t c = 0; c < inputs / kPanel; ++c)
          sums.add(a + (c * rows + row) * kPanel, kPanel, 1, b + (panel * inputs + c * kPanel) * kPanel + column,
                   kPanel);
        sums.write(out + (panel * rows + row) * kPanel + column);
      }
}

// out [inputs, outputs] += a' [inputs, rows] * b [rows, outputs]. a is stored as [rows, inputs].
inline void add_product(const float* a, const float* b, float* out, int64_t rows, int64_t inputs, int64_t outputs) {
  for (int64_t panel = 0; panel < outputs / kPanel; ++panel)
    for (int64_t column = 0; column < kPanel; column += kColumns * kLanes)
      for (int64_t input = 0; input < inputs; input += kRows) {
        float* const to = out + (panel * inputs + input) * kPanel + column;
        Sums sums;
        sums.read(to);
        sums.add(a + panel_offset(rows, 0, input), 1, kPanel, b + panel * rows * kPanel + column, rows);
        sums.write(to);
      }
}

// Multiplies by B' along one dimension.
inline void inputs_along(const Floats d0, const Floats d1, const Floats d2, const Floats d3, Floats* to, int64_t step) {
  to[0] = d0 - d2;
  to[step] = d1 + d2;
  to[2 * step] = d2 - d1;
  to[3 * step] = d1 - d3;
}

// The image of a tile and its position in the map.
struct Tile {
  int64_t image, y, x;
};

inline Tile tile_of(const Winograd& maps, int64_t number) {
  const int64_t wide = (maps.width + 1) / 2, high = (maps.height + 1) / 2;
  return {number / (wide * high), number / wide % high * 2, number % wide * 2};
}

// Writes the addresses of the values of a square from (y, x) of `map`, [batch, height, width, channels]. Positions
// outside of the image point to `zeros`.
template <int64_t side>
inline void square_addresses(const Winograd& maps, const float* map, int64_t channels, Tile square, const float* zeros,
                  const float* (&from)[side][side]) {
  for (int64_t i = 0; i < side; ++i)
    for (int64_t j = 0; j < side; ++j) {
      const int64_t row = square.y + i, column = square.x + j;
      const bool inside = row >= 0 && row < maps.height && column >= 0 && column < maps.width;
      from[i][j] = inside ? map + ((square.image * maps.height + row) * maps.width + column) * channels : zeros;
    }
}

// Writes B' d B of tiles `begin` to `end` of `x`, [batch, height, width, channels], as 16 matrices [rows, channels].
// `zeros` has `channels` zeros.
inline void transform_inputs(const Winograd& maps, const float* x, int64_t channels, int64_t begin, int64_t end,
                             int64_t rows, const float* zeros, float* to) {
  for (int64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of(maps, number);
    const float* from[4][4];
    square_addresses(maps, x, channels, {tile.image, tile.y - 1, tile.x - 1}, zeros, from);
    for (int64_t c = 0; c < channels; c += kLanes) {
      Floats half[4][4];
      for (int64_t j = 0; j < 4; ++j)
        inputs_along(load(from[0][j] + c), load(from[1][j] + c), load(from[2][j] + c), load(from[3][j] + c),
                     &half[0][j], 4);
      float* const at = to + panel_offset(rows, number - begin, c);
      for (int64_t i = 0; i < 4; ++i) {
        Floats whole[4];
        inputs_along(half[i][0], half[i][1], half[i][2], half[i][3], whole, 1);
        for (int64_t j = 0; j < 4; ++j) store(at + (i * 4 + j) * rows * channels, whole[j]);
      }
    }
  }
}

// Writes A' m A + bias of 16 matrices [rows, channels] to tiles `begin` to `end` of `y`, [batch, height, width,
// channels].
inline void transform_outputs(const Winograd& maps, const float* from, const float* bias, int64_t channels,
                              int64_t begin, int64_t end, int64_t rows, float* y) {
  for (int64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of(maps, number);
    float* const to = y + ((tile.image * maps.height + tile.y) * maps.width + tile.x) * channels;
    const bool has_right = tile.x + 1 < maps.width, has_below = tile.y + 1 < maps.height;
    for (int64_t c = 0; c < channels; c += kLanes) {
      const float* const at = from + panel_offset(rows, number - begin, c);
      Floats half[2][4];
      for (int64_t j = 0; j < 4; ++j) {
        const auto m = [&](int64_t i) { return load(at + (i * 4 + j) * rows * channels); };
        const Floats sum = m(1) + m(2), difference = m(1) - m(2);
        half[0][j] = m(0) + sum;
        half[1][j] = difference - m(3);
      }
      const Floats offset = bias ? load(bias + c) : Floats{};
      for (int64_t i = 0; i < (has_below ? 2 : 1); ++i) {
        float* const out = to + i * maps.width * channels + c;
        store(out, half[i][0] + half[i][1] + half[i][2] + offset);
        if (has_right) store(out + channels, half[i][1] - half[i][2] - half[i][3] + offset);
      }
    }
  }
}

// Writes A dy A' of tiles `begin` to `end` of `dy`, [batch, height, width, channels], as 16 matrices [rows, channels].
// Adds the sums of dy over positions to `sums`, [channels].
inline void transform_gradients(const Winograd& maps, const float* dy, int64_t channels, int64_t begin, int64_t end,
                                int64_t rows, const float* zeros, float* to, float* sums) {
  for (int64_t number = begin; number < end; ++number) {
    const float* from[2][2];
    square_addresses(maps, dy, channels, tile_of(maps, number), zeros, from);
    for (int64_t c = 0; c < channels; c += kLanes) {
      Floats half[4][2];
      for (int64_t j = 0; j < 2; ++j) {
        const Floats upper = load(from[0][j] + c), lower = load(from[1][j] + c);
        half[0][j] = upper;
        half[1][j] = upper + lower;
        half[2][j] = upper - lower;
        half[3][j] = -lower;
      }
      store(sums + c, load(sums + c) + (half[1][0] + half[1][1]));
      float* const at = to + panel_offset(rows, number - begin, c);
      for (int64_t i = 0; i < 4; ++i) {
        const Floats left = half[i][0], right = half[i][1];
        const Floats whole[4] = {left, left + right, left - right, -right};
        for (int64_t j = 0; j < 4; ++j) store(at + (i * 4 + j) * rows * channels, whole[j]);
      }
    }
  }
}

// Rounds up to a multiple of kRows.
inline int64_t padded(int64_t tiles) { return (tiles + kRows - 1) / kRows * kRows; }

void winograd_forward(const Winograd& maps, const float* x, const float* weights, const float* bias, int64_t begin,
                      int64_t end, float* scratch, float* y) {
  const int64_t rows = padded(end - begin), inputs = maps.inputs, outputs = maps.outputs;
  float *const zeros = scratch, *const from = zeros + inputs, *const to = from + kElements * rows * inputs;
  for (int64_t c = 0; c < inputs; ++c) zeros[c] = 0;
  transform_inputs(maps, x, inputs, begin, end, rows, zeros, from);
  for (int64_t element = 0; element < kElements; ++element)
    multiply(from + element * rows * inputs, weights + element * inputs * outputs, to + element * rows * outputs, rows,
             inputs, outputs);
  transform_outputs(maps, to, bias, outputs, begin, end, rows, y);
}

void winograd_backward(const Winograd& maps, const float* x, const float* dy, int64_t begin, int64_t end,
                       float* scratch, float* dweights, float* dbias) {
  const int64_t rows = end - begin, inputs = maps.inputs, outputs = maps.outputs;
  const int64_t most = inputs > outputs ? inputs : outputs;
  float *const zeros = scratch, *const from = zeros + most, *const to = from + kElements * rows * inputs;
  for (int64_t c = 0; c < most; ++c) zeros[c] = 0;
  transform_inputs(maps, x, inputs, begin, end, rows, zeros, from);
  transform_gradients(maps, dy, outputs, begin, end, rows, zeros, to, dbias);
  for (int64_t element = 0; element < kElements; ++element)
    add_product(from + element * rows * inputs, to + element * rows * outputs, dweights + element * inputs * outputs,
                rows, inputs, outputs);
}

int64_t winograd_scratch(const Winograd& maps, int64_t tiles) {
  const int64_t most = maps.inputs > maps.outputs ? maps.inputs : maps.outputs;
  return most + kElements * padded(tiles) * (maps.inputs + maps.outputs);
}

// Calls body(row, column) for each vector of kLanes columns, in the order of a matrix in panels.
template <typename Body>
inline void for_weight_vectors(int64_t rows, int64_t columns, Body body) {
  for (int64_t panel = 0; panel < columns; panel += kPanel)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = panel; column < panel + kPanel; column += kLanes) body(row, column);
}

// Writes G g G' of rows `begin` to `end` of the weights.
void winograd_weights(const WinogradWeights& layout, const float* weights, int64_t begin, int64_t end, float* scratch,
                      float* to) {
  const int64_t rows = layout.rows, columns = layout.columns, step = columns + kStagger;
  for (int64_t first = begin; first < end; first += kWeightRows) {
    const int64_t count = end - first < kWeightRows ? end - first : kWeightRows;
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t row = 0; row < count; ++row)
        for (int64_t tap = 0; tap < 9; ++tap)
          scratch[(row * 9 + tap) * step + column] = weights[(first + row) * layout.row_step +
                                                             column * layout.column_step +
                                                             (layout.mirrored ? 8 - tap : tap)];
    for_weight_vectors(count, columns, [&](int64_t row, int64_t column) {
      Floats half[4][3];
      for (int64_t j = 0; j < 3; ++j) {
        const auto g = [&](int64_t i) { return load(scratch + (row * 9 + i * 3 + j) * step + column); };
        const Floats ends = 0.5f * (g(0) + g(2)), middle = 0.5f * g(1);
        half[0][j] = g(0);
        half[1][j] = ends + middle;
        half[2][j] = ends - middle;
        half[3][j] = g(2);
      }
      float* const at = to + panel_offset(rows, first + row, column);
      for (int64_t i = 0; i < 4; ++i) {
        const Floats ends = 0.5f * (half[i][0] + half[i][2]), middle = 0.5f * half[i][1];
        const Floats whole[4] = {half[i][0], ends + middle, ends - middle, half[i][2]};
        for (int64_t j = 0; j < 4; ++j) store(at + (i * 4 + j) * rows * columns, whole[j]);
      }
    });
  }
}

// Writes G' dU G of rows `begin` to `end`, where dU is the gradient of the transformed weights.
void winograd_weight_gradients(const WinogradWeights& layout, const float* from, int64_t begin, int64_t end,
                               float* scratch, float* dweights) {
  const int64_t rows = layout.rows, columns = layout.columns, step = columns + kStagger;
  for (int64_t first = begin; first < end; first += kWeightRows) {
    const int64_t count = end - first < kWeightRows ? end - first : kWeightRows;
    for_weight_vectors(count, columns, [&](int64_t row, int64_t column) {
      const float* const at = from + panel_offset(rows, first + row, column);
      Floats half[3][4];
      for (int64_t j = 0; j < 4; ++j) {
        const auto u = [&](int64_t i) { return load(at + (i * 4 + j) * rows * columns); };
        const Floats sum = 0.5f * (u(1) + u(2));
        half[0][j] = u(0) + sum;
        half[1][j] = 0.5f * (u(1) - u(2));
        half[2][j] = u(3) + sum;
      }
      for (int64_t i = 0; i < 3; ++i) {
        const Floats sum = 0.5f * (half[i][1] + half[i][2]);
        float* const out = scratch + (row * 9 + i * 3) * step + column;
        store(out, half[i][0] + sum);
        store(out + step, 0.5f * (half[i][1] - half[i][2]));
        store(out + 2 * step, half[i][3] + sum);
      }
    });
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t row = 0; row < count; ++row)
        for (int64_t tap = 0; tap < 9; ++tap)
          dweights[(first + row) * layout.row_step + column * layout.column_step + tap] =
              scratch[(row * 9 + tap) * step + column];
  }
}

int64_t winograd_weights_scratch(const WinogradWeights& layout) {
  return kWeightRows * 9 * (layout.columns + kStagger);
}

}  // namespace
}  // namespace admiral
