// Resizing whose filters grow wider as an image shrinks, with the arithmetic of Pillow.
#pragma once

#include <functional>
#include <opencv2/core.hpp>
#include <string>

namespace segment {

struct PillowFilter {
  double support;  // half its width in output pixels; 0 for the nearest pixel
  std::function<double(double)> weight;
};

/// Returns the filter of one of Pillow's names; throws Error for another.
PillowFilter pillow_filter(const std::string& name);

/// Returns the image at `size`: uint8 stays uint8, other values become float32.
cv::Mat pillow_resize(const cv::Mat& image, cv::Size size, const PillowFilter& filter);

}  // namespace segment
