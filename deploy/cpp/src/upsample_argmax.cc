#include "upsample_argmax.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace segment {

namespace {

constexpr int kTileWidth = 64;

/// The part of a window's logits that a tile is made of.
struct Share {
  const Piece* piece;
  cv::Range rows, columns;  // of the logits
};

std::vector<Share> shares_of(const std::vector<const Piece*>& pieces, const cv::Rect& tile) {
  const cv::Range rows(tile.y, tile.y + tile.height), columns(tile.x, tile.x + tile.width);
  std::vector<Share> shares;
  for (const Piece* piece : pieces)
    if (!(piece->rows.outputs & rows).empty() && !(piece->columns.outputs & columns).empty())
      shares.push_back({piece, piece->rows.inputs_of(rows), piece->columns.inputs_of(columns)});
  return shares;
}

/// Returns the ids that can be the largest somewhere in a tile, in ascending order.
///
/// Every logit of the tile is a sum of the shares' logits with weights of 0 or more that are the
/// same for all classes. So a class that lies below another throughout all shares cannot win.
std::vector<int> candidates(const std::vector<Share>& shares) {
  const int num_classes = shares[0].piece->num_classes;
  std::vector<double> means(num_classes);
  for (const auto& [piece, rows, columns] : shares)
    for (int id = 0; id < num_classes; ++id) {
      float sum = 0;
      for (int y = rows.start; y < rows.end; ++y)
        for (int x = columns.start; x < columns.end; ++x) sum += piece->row(id, y)[x];
      means[id] += sum / (rows.size() * columns.size());
    }
  const auto leader =
      static_cast<int>(std::max_element(means.begin(), means.end()) - means.begin());
  const auto can_win = [&](int id) {
    for (const auto& [piece, rows, columns] : shares)
      for (int y = rows.start; y < rows.end; ++y) {
        const float *row = piece->row(id, y), *best = piece->row(leader, y);
        for (int x = columns.start; x < columns.end; ++x)
          if (row[x] >= best[x]) return true;
      }
    return false;
  };
  std::vector<int> ids;
  for (int id = 0; id < num_classes; ++id)
    if (can_win(id)) ids.push_back(id);
  return ids;
}

/// Adds a class's logits of one row of a tile to `scores`: first along the column, then along the
/// row, as the matrix products of the Python code do.
void add_scores(const Share& share, int id, int y, const cv::Rect& tile, std::vector<float>& blend,
                float* scores) {
  const Resampling &rows = share.piece->rows, &columns = share.piece->columns;
  const int first = share.columns.start, width = share.columns.size();
  std::fill(blend.begin(), blend.end(), 0.0f);
  for (int tap = 0; tap < rows.num_taps; ++tap) {
    const float weight = rows.weights[tap][y];
    if (weight == 0) continue;
    const float* logits = share.piece->row(id, rows.starts[y] + tap) + first;
    for (int x = 0; x < width; ++x) blend[x] += weight * logits[x];
  }
  const int* starts = columns.starts.data() + tile.x;
  for (int x = 0; x < tile.width; ++x) {
    const float* inputs = blend.data() + (starts[x] - first);
    float score = 0;
    for (int tap = 0; tap < columns.num_taps; ++tap)
      if (const float weight = columns.weights[tap][tile.x + x]; weight != 0)
        score += weight * inputs[tap];
    scores[x] += score;
  }
}

int widest_of(const std::vector<Share>& shares) {
  int widest = 0;
  for (const Share& share : shares) widest = std::max(widest, share.columns.size());
  return widest;
}

template <typename Id>
void label_tile(const std::vector<Share>& shares, const cv::Rect& tile, cv::Mat& label) {
  const std::vector<int> ids = candidates(shares);
  if (ids.size() == 1) {
    label(tile).setTo(ids[0]);
    return;
  }
  std::vector<float> blend(widest_of(shares)), scores(tile.width), best(tile.width);
  for (int y = tile.y; y < tile.y + tile.height; ++y) {
    Id* row = label.ptr<Id>(y) + tile.x;
    for (std::size_t index = 0; index < ids.size(); ++index) {
      std::fill(scores.begin(), scores.end(), 0.0f);
      for (const Share& share : shares)
        add_scores(share, ids[index], y, tile, blend, scores.data());
      for (int x = 0; x < tile.width; ++x)
        if (index == 0 || scores[x] > best[x]) {
          best[x] = scores[x];
          row[x] = static_cast<Id>(ids[index]);
        }
    }
  }
}

template <typename Id>
void confidence_tile(const std::vector<Share>& shares, const cv::Rect& tile, const cv::Mat& label,
                     const std::vector<float>& temperatures, cv::Mat& confidence) {
  const int num_classes = shares[0].piece->num_classes;
  std::vector<float> blend(widest_of(shares)), scores(num_classes * tile.width);
  for (int y = tile.y; y < tile.y + tile.height; ++y) {
    std::fill(scores.begin(), scores.end(), 0.0f);
    for (int id = 0; id < num_classes; ++id)
      for (const Share& share : shares)
        add_scores(share, id, y, tile, blend, scores.data() + id * tile.width);
    const Id* ids = label.ptr<Id>(y) + tile.x;
    float* row = confidence.ptr<float>(y) + tile.x;
    for (int x = 0; x < tile.width; ++x) {
      const float best = scores[ids[x] * tile.width + x];
      const float temperature =
          temperatures.empty() ? 1.0f : temperatures[temperatures.size() == 1 ? 0 : ids[x]];
      float total = 0;
      for (int id = 0; id < num_classes; ++id)
        total += std::exp((scores[id * tile.width + x] - best) / temperature);
      row[x] = 1 / total;
    }
  }
}

/// Calls `reduce(shares, tile)` for the tiles of some rows.
template <typename Reduce>
void for_each_tile(const std::vector<const Piece*>& pieces, cv::Range rows, int width,
                   const Reduce& reduce) {
  const int num_tiles = (width + kTileWidth - 1) / kTileWidth;
  cv::parallel_for_(cv::Range(0, num_tiles), [&](const cv::Range& tiles) {
    for (int index = tiles.start; index < tiles.end; ++index) {
      const int left = index * kTileWidth;
      const cv::Rect tile(left, rows.start, std::min(kTileWidth, width - left), rows.size());
      reduce(shares_of(pieces, tile), tile);
    }
  });
}

}  // namespace

void label_rows(const std::vector<const Piece*>& pieces, cv::Range rows, cv::Mat& label) {
  for_each_tile(pieces, rows, label.cols, [&](const auto& shares, const cv::Rect& tile) {
    if (label.depth() == CV_8U)
      label_tile<std::uint8_t>(shares, tile, label);
    else
      label_tile<std::uint16_t>(shares, tile, label);
  });
}

void confidence_rows(const std::vector<const Piece*>& pieces, cv::Range rows, const cv::Mat& label,
                     const std::vector<float>& temperatures, cv::Mat& confidence) {
  for_each_tile(pieces, rows, label.cols, [&](const auto& shares, const cv::Rect& tile) {
    if (label.depth() == CV_8U)
      confidence_tile<std::uint8_t>(shares, tile, label, temperatures, confidence);
    else
      confidence_tile<std::uint16_t>(shares, tile, label, temperatures, confidence);
  });
}

}  // namespace segment
