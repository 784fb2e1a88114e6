// deploy.yaml: all that is needed to use an exported model as it was evaluated.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <opencv2/core.hpp>
#include <optional>
#include <string>
#include <vector>

#include "size_rules.h"

namespace segment {

struct ModelFile {
  std::string name;
  std::string sha256;
};

struct InputSpec {
  std::array<int, 4> shape;  // N, C, H, W; -1 for any
  int min_side_px;           // of H and W
};

struct OutputSpec {
  std::string op;
  int num_classes;
  int pad_multiple;  // logits stand for the input padded at the bottom and right to a multiple of
                     // it
};

/// (value - offset) * scale, an entry for each channel.
struct Normalization {
  std::vector<float> offset;
  std::vector<float> scale;
};

struct Settings {
  bool is_slide = false;
  std::optional<cv::Size> crop_size;
  std::optional<cv::Size> stride;
  bool is_one_step = false;         // resize logits straight to the original size
  int window_batch = 1;             // most windows that go through the network together
  bool align_corners = false;       // of the resize of logits
  std::vector<float> temperatures;  // of confidence: none, one, or one for each predicted class

  /// Throws Error where values do not go together.
  void check();
};

/// A small image and the labels that the model itself gives for it.
struct Fixture {
  ModelFile image;
  ModelFile labels;
  double min_agreement;  // share of equal labels
};

struct DeployConfig {
  std::filesystem::path path;
  std::map<std::string, std::vector<ModelFile>> artefacts;  // paddle, onnx, openvino
  InputSpec input;
  OutputSpec output;
  std::vector<SizeRule> size_rules;
  Normalization normalization;
  Settings settings;
  std::vector<std::string> classes;
  std::vector<cv::Vec3b> palette;  // RGB of each class
  int ignore_index;
  std::optional<Fixture> fixture;

  /// Reads the deploy.yaml of a folder; the file itself may be given too.
  static DeployConfig load(const std::filesystem::path& path);

  /// Returns the path of a file beside deploy.yaml, compared with its checksum.
  std::filesystem::path checked_file(const ModelFile& file) const;

  /// Returns the files of the first of `names` that was exported, compared with their checksums.
  std::vector<std::filesystem::path> checked_files(const std::vector<std::string>& names) const;
};

}  // namespace segment
