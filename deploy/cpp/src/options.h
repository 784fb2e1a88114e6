// The command line: the flags of deploy/python/infer.py, as far as this program has them.
#pragma once

#include <opencv2/core.hpp>
#include <optional>
#include <set>
#include <string>

#include "deploy_config.h"

namespace segment {

struct Options {
  std::string config;
  std::string image_path;
  std::string save_dir = "output/infer";
  std::string device = "cpu";
  int threads = 0;
  int warmup = 0;
  int max_side_px = 8192;
  bool is_slide = false;
  bool self_check = false;
  bool save_confidence = false;
  std::set<std::string> outputs = {"label"};
  float min_confidence = 0;
  bool wants_help = false;
  std::optional<cv::Size> crop_size;
  std::optional<cv::Size> stride;
  std::optional<int> window_batch;
};

/// Throws Error for an unknown flag or a value of the wrong kind.
Options parse_options(int argc, const char* const* argv);

std::string help_text();

/// Returns the exported settings with the flags on top.
Settings with_flags(Settings settings, const Options& options);

}  // namespace segment
