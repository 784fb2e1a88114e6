#include "linear_map.h"

#include <algorithm>

namespace segment {

LinearMap::LinearMap(int num_inputs, int num_outputs, int num_taps)
    : num_inputs_(num_inputs),
      num_taps_(num_taps),
      starts_(num_outputs),
      weights_(static_cast<std::size_t>(num_outputs) * num_taps) {}

LinearMap LinearMap::bilinear(int num_inputs, int num_outputs, bool align_corners) {
  if (num_inputs == num_outputs) return crop(num_inputs, num_inputs);
  LinearMap map(num_inputs, num_outputs, std::min(2, num_inputs));
  const double step = static_cast<double>(num_inputs) / num_outputs;
  const double aligned_step = (num_inputs - 1.0) / std::max(num_outputs - 1, 1);
  for (int i = 0; i < num_outputs; ++i) {
    const double position = std::clamp(align_corners ? i * aligned_step : (i + 0.5) * step - 0.5,
                                       0.0, num_inputs - 1.0);
    map.starts_[i] = std::min(static_cast<int>(position), num_inputs - map.num_taps_);
    const double fraction = position - map.starts_[i];
    map.weight(i, 0) = 1 - fraction;
    if (map.num_taps_ == 2) map.weight(i, 1) = fraction;
  }
  return map;
}

LinearMap LinearMap::crop(int num_inputs, int num_outputs) {
  return place(num_inputs, 0, std::vector<double>(num_outputs, 1.0));
}

LinearMap LinearMap::place(int num_inputs, int offset, const std::vector<double>& factors) {
  LinearMap map(num_inputs, static_cast<int>(factors.size()), 1);
  for (int i = 0; i < map.num_outputs(); ++i) {
    const int position = i - offset;
    map.starts_[i] = std::clamp(position, 0, num_inputs - 1);
    map.weights_[i] = position == map.starts_[i] ? factors[i] : 0.0;
  }
  return map;
}

LinearMap LinearMap::then(const LinearMap& outer) const {
  const int num_outputs = outer.num_outputs();
  std::vector<int> lows(num_outputs, num_inputs_), highs(num_outputs, 0);
  int num_taps = 1;
  for (int i = 0; i < num_outputs; ++i) {
    for (int tap = 0; tap < outer.num_taps_; ++tap) {
      const int middle = outer.starts_[i] + tap;
      if (outer.weight(i, tap) == 0 || !uses_inputs(middle)) continue;
      lows[i] = std::min(lows[i], starts_[middle]);
      highs[i] = std::max(highs[i], starts_[middle] + num_taps_);
    }
    num_taps = std::max(num_taps, highs[i] - lows[i]);
  }
  LinearMap map(num_inputs_, num_outputs, num_taps);
  for (int i = 0; i < num_outputs; ++i) {
    map.starts_[i] = std::min(lows[i], num_inputs_ - num_taps);
    for (int tap = 0; tap < outer.num_taps_; ++tap) {
      const int middle = outer.starts_[i] + tap;
      if (outer.weight(i, tap) == 0 || !uses_inputs(middle)) continue;
      for (int inner = 0; inner < num_taps_; ++inner)
        map.weight(i, starts_[middle] - map.starts_[i] + inner) +=
            outer.weight(i, tap) * weight(middle, inner);
    }
  }
  return map;
}

bool LinearMap::uses_inputs(int output) const {
  const auto first = weights_.begin() + output * num_taps_;
  return std::any_of(first, first + num_taps_, [](double value) { return value != 0; });
}

std::pair<int, int> LinearMap::output_range() const {
  int first = 0, last = num_outputs();
  while (first < last && !uses_inputs(first)) ++first;
  while (last > first && !uses_inputs(last - 1)) --last;
  return {first, last};
}

Resampling::Resampling(const LinearMap& map)
    : num_taps(map.num_taps()), weights(map.num_taps(), std::vector<float>(map.num_outputs())) {
  for (int output = 0; output < map.num_outputs(); ++output) {
    starts.push_back(map.start(output));
    for (int tap = 0; tap < num_taps; ++tap)
      weights[tap][output] = static_cast<float>(map.weight(output, tap));
  }
  const auto [first, last] = map.output_range();
  outputs = {first, last};
}

cv::Range Resampling::inputs_of(cv::Range range) const {
  const cv::Range used = range & outputs;
  cv::Range inputs(starts[used.start], starts[used.start] + num_taps);
  for (int output = used.start; output < used.end; ++output) {
    inputs.start = std::min(inputs.start, starts[output]);
    inputs.end = std::max(inputs.end, starts[output] + num_taps);
  }
  return inputs;
}

cv::Mat resize_bilinear(const cv::Mat& image, cv::Size size) {
  const Resampling rows(LinearMap::bilinear(image.rows, size.height));
  const Resampling columns(LinearMap::bilinear(image.cols, size.width));
  const int channels = image.channels();
  cv::Mat result(size, image.type());
  cv::parallel_for_(cv::Range(0, size.height), [&](const cv::Range& range) {
    std::vector<float> blend(static_cast<std::size_t>(image.cols) * channels);
    for (int y = range.start; y < range.end; ++y) {
      std::fill(blend.begin(), blend.end(), 0.0f);
      for (int tap = 0; tap < rows.num_taps; ++tap) {
        const float* input = image.ptr<float>(rows.starts[y] + tap);
        for (std::size_t i = 0; i < blend.size(); ++i) blend[i] += rows.weights[tap][y] * input[i];
      }
      float* output = result.ptr<float>(y);
      for (int x = 0; x < size.width; ++x)
        for (int channel = 0; channel < channels; ++channel) {
          float sum = 0;
          for (int tap = 0; tap < columns.num_taps; ++tap)
            sum += columns.weights[tap][x] * blend[(columns.starts[x] + tap) * channels + channel];
          *output++ = sum;
        }
    }
  });
  return result;
}

}  // namespace segment
