// Linear maps along one image axis, few neighbouring inputs for each output.
//
// All that lies between the network's logits and those of the original image is linear and acts on
// rows and columns separately: bilinear resizing, placing a window, dividing by the number of
// windows, cropping off padding. Such a chain is one map for each axis, composed in double.
#pragma once

#include <opencv2/core.hpp>
#include <utility>
#include <vector>

namespace segment {

class LinearMap {
 public:
  /// Output i is the sum over t of weight(i, t) * input[start(i) + t].
  LinearMap(int num_inputs, int num_outputs, int num_taps);

  /// Bilinear resizing with half-pixel centres and clamped edges, or with the first and the last
  /// samples on each other.
  static LinearMap bilinear(int num_inputs, int num_outputs, bool align_corners = false);
  /// The first `num_outputs` inputs.
  static LinearMap crop(int num_inputs, int num_outputs);
  /// A window put at `offset` on an axis of zeros, each sample times the factor of its place.
  static LinearMap place(int num_inputs, int offset, const std::vector<double>& factors);

  /// Returns the map that applies this one first and `outer` to its result.
  LinearMap then(const LinearMap& outer) const;

  int num_inputs() const { return num_inputs_; }
  int num_outputs() const { return static_cast<int>(starts_.size()); }
  int num_taps() const { return num_taps_; }
  int start(int output) const { return starts_[output]; }
  double weight(int output, int tap) const { return weights_[output * num_taps_ + tap]; }
  bool uses_inputs(int output) const;

  /// Returns first and last + 1 of the outputs that depend on any input.
  std::pair<int, int> output_range() const;

 private:
  double& weight(int output, int tap) { return weights_[output * num_taps_ + tap]; }

  int num_inputs_;
  int num_taps_;
  std::vector<int> starts_;
  std::vector<double> weights_;
};

/// A LinearMap in float32, its weights in the order in which they are used.
struct Resampling {
  explicit Resampling(const LinearMap& map);

  int num_taps;
  std::vector<int> starts;                  // of each output
  std::vector<std::vector<float>> weights;  // [tap][output]
  cv::Range outputs;                        // those that depend on any input

  /// Returns the inputs that the outputs of a range use.
  cv::Range inputs_of(cv::Range range) const;
};

/// Resizes a float32 image bilinearly with exact positions, as OpenCV's wheels for Python do by way
/// of Intel's IPP; OpenCV's own code computes positions in float32.
cv::Mat resize_bilinear(const cv::Mat& image, cv::Size size);

}  // namespace segment
