// Rows or columns of an image: its windows, and the way back from their logits.
#pragma once

#include <utility>
#include <vector>

#include "linear_map.h"

namespace segment {

/// One step from the network's input size towards the original size.
struct BackStep {
  bool is_crop;
  int length;  // after the step
};

using Span = std::pair<int, int>;  // first and last + 1

struct Axis {
  int length;  // after the size rules
  std::vector<Span> windows;
  std::vector<BackStep> back;
  bool is_one_step;    // resize from the logits straight to the original length
  int pad_multiple;    // the network pads its input at the end to a multiple of so many samples
  bool align_corners;  // of the first resize, that of the logits

  /// Returns the map from a window's logits to its share of the original image's logits.
  LinearMap to_original(int window, int num_logits) const;

  /// Returns first and last + 1 of the original samples that a window contributes to.
  Span reach(int window) const;
};

/// Returns equal windows every `stride` samples, the last one pulled back to end with the axis. An
/// axis shorter than `crop` gets one window of its own length.
std::vector<Span> windows_along(int length, int crop, int stride);

}  // namespace segment
