#include "axis.h"

#include <algorithm>

namespace segment {

namespace {

/// Returns for each sample one over the number of windows that cover it.
std::vector<double> window_shares(int length, const std::vector<Span>& windows) {
  std::vector<double> counts(length);
  for (const auto& [start, stop] : windows)
    for (int i = start; i < stop; ++i) ++counts[i];
  std::transform(counts.begin(), counts.end(), counts.begin(),
                 [](double count) { return 1.0 / count; });
  return counts;
}

}  // namespace

LinearMap Axis::to_original(int window, int num_logits) const {
  if (is_one_step)
    return LinearMap::bilinear(num_logits, back.empty() ? length : back.back().length,
                               align_corners);
  const auto [start, stop] = windows[window];
  const int size = stop - start;
  const int padded = (size + pad_multiple - 1) / pad_multiple * pad_multiple;
  LinearMap path = LinearMap::bilinear(num_logits, padded, align_corners);
  if (padded != size) path = path.then(LinearMap::crop(padded, size));
  path = path.then(LinearMap::place(size, start, window_shares(length, windows)));
  for (const BackStep& step : back)
    path = path.then(step.is_crop ? LinearMap::crop(path.num_outputs(), step.length)
                                  : LinearMap::bilinear(path.num_outputs(), step.length));
  return path;
}

Span Axis::reach(int window) const {
  const auto [start, stop] = windows[window];
  return to_original(window, stop - start).output_range();
}

std::vector<Span> windows_along(int length, int crop, int stride) {
  if (length <= crop) return {{0, length}};
  std::vector<Span> windows;
  for (int start = 0; start < length - crop; start += stride)
    windows.emplace_back(start, start + crop);
  windows.emplace_back(length - crop, length);
  return windows;
}

}  // namespace segment
