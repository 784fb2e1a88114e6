// An image on its way to a label map: size rules, windows, network, logits at the original size.
#pragma once

#include <map>
#include <opencv2/core.hpp>
#include <utility>

#include "axis.h"
#include "deploy_config.h"
#include "engine.h"
#include "timings.h"
#include "upsample_argmax.h"

namespace segment {

class Pipeline {
 public:
  Pipeline(const DeployConfig& deploy, Engine& engine, int max_side_px)
      : deploy_(deploy), engine_(engine), max_side_px_(max_side_px) {}

  /// Returns the class ids (8 bits, or 16 for more than 256 classes) of an image at its own size.
  ///
  /// `confidence`, if there is one, gets the calibrated probability of each pixel's class
  /// (float32).
  cv::Mat labels(const cv::Mat& image, Timings& timings, cv::Mat* confidence = nullptr);

 private:
  using WindowKey = std::pair<int, int>;  // row and column of the window grid

  /// An image after the size rules, and its windows.
  struct Prepared {
    cv::Mat image;
    Axis rows, columns;
    std::vector<Span> reaches;  // rows of the label map that each row of windows has a share in

    std::vector<WindowKey> windows_reaching(cv::Range band) const;
  };

  Prepared prepare(const cv::Mat& image) const;
  void check_input(int height, int width) const;
  /// Puts the windows that are not at hand through the network, several at a time.
  void compute(const Prepared& prepared, std::vector<WindowKey> keys, Timings& timings);
  Tensor read(const Prepared& prepared, const std::vector<WindowKey>& keys) const;
  void keep(const Prepared& prepared, const std::vector<WindowKey>& keys, const Tensor& logits);

  const DeployConfig& deploy_;
  Engine& engine_;
  int max_side_px_;
  std::map<WindowKey, Piece> pieces_;  // of the image at hand, as long as they are needed
};

}  // namespace segment
