// From logits at the network's resolution to class ids at the original size, tile by tile.
//
// Logits of all classes at full size never exist: a tile's are summed over the windows that reach
// into it, one row at a time, and reduced to ids at once.
#pragma once

#include <cstddef>
#include <opencv2/core.hpp>
#include <vector>

#include "linear_map.h"

namespace segment {

/// A window's logits (K, h, w) and their way to the original image.
struct Piece {
  std::vector<float> logits;
  int num_classes;
  int height, width;
  Resampling rows;     // h -> H
  Resampling columns;  // w -> W

  const float* row(int class_id, int y) const {
    return logits.data() + (static_cast<std::size_t>(class_id) * height + y) * width;
  }
};

/// Writes the class ids of some rows into `label` (8 or 16 bits); ties go to the lowest id.
void label_rows(const std::vector<const Piece*>& pieces, cv::Range rows, cv::Mat& label);

/// Writes the probability of each pixel's class (float32) for some rows whose `label` is written:
/// the logits are divided by the temperature of the class, or by the only one, or by 1.
void confidence_rows(const std::vector<const Piece*>& pieces, cv::Range rows, const cv::Mat& label,
                     const std::vector<float>& temperatures, cv::Mat& confidence);

}  // namespace segment
