// Size rules: what is done to an image's size before the network sees it.
//
// PaddleSeg's rules interpolate in float32 and round sizes half to even; those of NVlabs and
// mmsegmentation interpolate in uint8 and round half up; that of Hugging Face filters before it
// shrinks.
#pragma once

#include <functional>
#include <opencv2/core.hpp>
#include <string>

#include "yaml_section.h"

namespace segment {

struct SizeRule {
  bool pads;
  std::function<cv::Mat(const cv::Mat&)> apply;
};

/// Returns the rule of a transform in deploy.yaml; throws Error if it is not one of these.
SizeRule make_size_rule(const Section& section);

}  // namespace segment
