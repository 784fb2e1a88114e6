// Predict images with an exported model: label maps, overlays and confidence.
//
//   segment_paddle --config output/export/deploy.yaml --image_path photos
#include <exception>
#include <iostream>
#include <new>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <optional>

#include "deploy_config.h"
#include "engine.h"
#include "error.h"
#include "image_io.h"
#include "image_sources.h"
#include "options.h"
#include "pipeline.h"
#include "self_check.h"
#include "timings.h"

namespace segment {
namespace {

/// Returns what went wrong with an image in one line, or nothing.
template <typename Action>
std::optional<std::string> failure_of(const ImageFile& image, const Action& action) {
  try {
    action();
    return std::nullopt;
  } catch (const Error& error) {
    const std::string message = error.what();
    const std::string path = image.path.string();
    return message.rfind(path, 0) == 0 ? message : path + ": " + message;
  } catch (const std::bad_alloc&) {
    return image.path.string() + ": not enough memory for this image. Use a sliding window.";
  } catch (const std::exception& error) {  // of OpenCV or the engine
    return image.path.string() + ": " + error.what();
  }
}

// infer.py writes probabilities too
constexpr char kLabels[] = "pseudo_color_prediction", kOverlays[] = "added_prediction",
               kProbabilities[] = "probabilities", kConfidence[] = "confidence";

/// Gives pixels of a lower confidence the id that labels use for pixels without a class.
void mark_unknown(cv::Mat& label, const cv::Mat& confidence, float min_confidence, int unknown) {
  if (unknown > 255) label.convertTo(label, CV_16U);
  label.setTo(unknown, confidence < min_confidence);
}

void predict(const ImageFile& file, const DeployConfig& deploy, Pipeline& pipeline,
             const Options& options, Timings& timings) {
  timings.begin_image();
  const cv::Mat image = [&] {
    const Timings::Scope scope(timings, Step::kDecode);
    return read_image(file.path, deploy.input.shape[1]);
  }();
  const auto wants = [&](const char* name) { return options.outputs.count(name) > 0; };
  const bool has_confidence = wants("confidence") || options.min_confidence > 0;
  cv::Mat confidence;
  cv::Mat label = pipeline.labels(image, timings, has_confidence ? &confidence : nullptr);
  if (options.min_confidence > 0)
    mark_unknown(label, confidence, options.min_confidence, deploy.ignore_index);
  {
    const Timings::Scope scope(timings, Step::kWrite);
    const std::filesystem::path save_dir = options.save_dir;
    const std::string name = file.name + ".png";
    if (wants("confidence")) write_confidence(save_dir / kConfidence / name, confidence);
    if (wants("label")) write_label(save_dir / kLabels / name, label, deploy.palette);
    if (wants("overlay")) write_overlay(save_dir / kOverlays / name, image, label, deploy.palette);
  }
  timings.end_image();
}

void warm_up(const ImageFile& file, const DeployConfig& deploy, Pipeline& pipeline, int num_runs) {
  Timings ignored;
  failure_of(file, [&] {
    for (int run = 0; run < num_runs; ++run)
      pipeline.labels(read_image(file.path, deploy.input.shape[1]), ignored);
  });
}

void run(const Options& options) {
  const DeployConfig exported = DeployConfig::load(options.config);
  DeployConfig deploy = exported;
  deploy.settings = with_flags(deploy.settings, options);
  const int unknown = deploy.ignore_index;
  if (options.min_confidence > 0 && (unknown < deploy.output.num_classes || unknown > 65535))
    fail("--min_confidence: the export's ignore_index ", unknown, " is a class, or no id of 16 ",
         "bits, so it cannot mark unknown pixels. Export with another ignore_index.");
  std::vector<ImageFile> images;
  const std::filesystem::path save_dir = options.save_dir;
  if (!options.image_path.empty())
    images = find_images(options.image_path, {save_dir / kLabels, save_dir / kOverlays,
                                              save_dir / kProbabilities, save_dir / kConfidence});
  const auto engine =
      make_engine(deploy.checked_files(kEngineArtefacts), {options.device, options.threads});
  cv::setNumThreads(options.threads);
  if (options.self_check)
    std::cout << self_check(exported, *engine, options.max_side_px) << std::endl;
  if (images.empty()) return;
  Pipeline pipeline(deploy, *engine, options.max_side_px);
  warm_up(images.front(), deploy, pipeline, options.warmup);

  Timings timings;
  std::size_t num_failed = 0;
  for (const ImageFile& image : images) {
    const auto failure =
        failure_of(image, [&] { predict(image, deploy, pipeline, options, timings); });
    if (!failure) continue;
    std::cerr << "failed: " << one_line(*failure) << std::endl;
    ++num_failed;
  }
  std::cout << images.size() - num_failed << " images written to " << options.save_dir << "\n"
            << engine->description() << ", " << options.device << ", " << options.threads
            << " threads; median ms per image:\n"
            << timings.report();
  if (num_failed > 0)
    fail(num_failed, " of ", images.size(), " images could not be predicted; see above.");
}

}  // namespace
}  // namespace segment

int main(int argc, char** argv) {
  cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
  try {
    const segment::Options options = segment::parse_options(argc, argv);
    if (options.wants_help)
      std::cout << segment::help_text();
    else
      segment::run(options);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << segment::one_line(error.what()) << std::endl;
    return 1;
  }
}
