#include "self_check.h"

#include <cstdio>

#include "error.h"
#include "image_io.h"
#include "pipeline.h"

namespace segment {

namespace {

/// Returns a share in percent with so many decimals.
std::string percent(double share, int decimals) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.*f%%", decimals, 100 * share);
  return digits;
}

}  // namespace

std::string self_check(const DeployConfig& exported, Engine& engine, int max_side_px) {
  if (!exported.fixture)
    fail(exported.path.string(), ": names no fixture to check an engine with. Export again.");
  const Fixture& fixture = *exported.fixture;
  const cv::Mat image = read_image(exported.checked_file(fixture.image), exported.input.shape[1]);
  const cv::Mat expected = read_label(exported.checked_file(fixture.labels));
  DeployConfig deploy = exported;  // its own settings, whatever the flags are
  deploy.settings.check();
  Timings ignored;
  cv::Mat found = Pipeline(deploy, engine, max_side_px).labels(image, ignored);
  found.convertTo(found, CV_16U);
  if (found.size() != expected.size())
    fail(exported.path.string(), ": the fixture's labels have another size than its image. ",
         "Export again.");
  const int num_equal = cv::countNonZero(found == expected);
  const int num_pixels = static_cast<int>(found.total());
  const double agreement = static_cast<double>(num_equal) / num_pixels;
  const std::string line = text(engine.description(), ": ", num_equal, " of ", num_pixels,
                                " labels of the fixture are the model's (", percent(agreement, 2),
                                ", needed are ", percent(fixture.min_agreement, 1), ")");
  if (agreement < fixture.min_agreement)
    fail(exported.path.string(), ": self-check failed; ", line,
         ". Use another version of the engine, or export again.");
  return line;
}

}  // namespace segment
