#include "pipeline.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "error.h"

namespace segment {

namespace {

constexpr int kBandHeight = 64;  // rows of the label map that are made together

struct SizeStep {
  bool pads;
  cv::Size before;
};

/// Returns the steps back to the original length; resizes in a row are undone by one.
std::vector<BackStep> back_steps(const std::vector<SizeStep>& steps, int cv::Size::* side) {
  std::vector<BackStep> back;
  for (std::size_t index = steps.size(); index-- > 0;) {
    const bool is_inner_resize = index > 0 && !steps[index].pads && !steps[index - 1].pads;
    if (!is_inner_resize) back.push_back({steps[index].pads, steps[index].before.*side});
  }
  return back;
}

/// Writes part of an image, normalised, as planes (C, h, w).
void write_planes(const cv::Mat& part, const Normalization& normalization, float* planes) {
  const int channels = part.channels();
  const std::size_t plane_size = part.total();
  for (int row = 0; row < part.rows; ++row) {
    for (int channel = 0; channel < channels; ++channel) {
      const float offset = normalization.offset[channel], scale = normalization.scale[channel];
      float* line = planes + channel * plane_size + static_cast<std::size_t>(row) * part.cols;
      const auto write = [&](const auto* pixels) {
        for (int column = 0; column < part.cols; ++column)
          line[column] = (static_cast<float>(pixels[column * channels + channel]) - offset) * scale;
      };
      part.depth() == CV_8U ? write(part.ptr<std::uint8_t>(row)) : write(part.ptr<float>(row));
    }
  }
}

}  // namespace

cv::Mat Pipeline::labels(const cv::Mat& image, Timings& timings, cv::Mat* confidence) {
  const Prepared prepared = [&] {
    const Timings::Scope scope(timings, Step::kPreprocess);
    return prepare(image);
  }();
  cv::Mat label(image.size(), deploy_.output.num_classes <= 256 ? CV_8U : CV_16U);
  if (confidence) confidence->create(image.size(), CV_32F);
  pieces_.clear();
  for (int top = 0; top < label.rows; top += kBandHeight) {
    const cv::Range band(top, std::min(top + kBandHeight, label.rows));
    const std::vector<WindowKey> keys = prepared.windows_reaching(band);
    compute(prepared, keys, timings);
    const Timings::Scope scope(timings, Step::kUpsample);
    std::vector<const Piece*> pieces;
    for (const WindowKey& key : keys) pieces.push_back(&pieces_.at(key));
    label_rows(pieces, band, label);
    if (confidence)
      confidence_rows(pieces, band, label, deploy_.settings.temperatures, *confidence);
    for (const WindowKey& key : keys)
      if (prepared.reaches[key.first].second <= band.end) pieces_.erase(key);
  }
  return label;
}

std::vector<Pipeline::WindowKey> Pipeline::Prepared::windows_reaching(cv::Range band) const {
  std::vector<WindowKey> keys;
  for (int row = 0; row < static_cast<int>(rows.windows.size()); ++row) {
    if (reaches[row].first >= band.end || reaches[row].second <= band.start) continue;
    for (int column = 0; column < static_cast<int>(columns.windows.size()); ++column)
      keys.emplace_back(row, column);
  }
  return keys;
}

Pipeline::Prepared Pipeline::prepare(const cv::Mat& original) const {
  const Settings& settings = deploy_.settings;
  std::vector<SizeStep> steps;
  cv::Mat image = original;
  for (const SizeRule& rule : deploy_.size_rules) {
    steps.push_back({rule.pads, image.size()});
    image = rule.apply(image);
  }
  const auto axis = [&](int length, int cv::Size::* side) {
    std::vector<Span> windows = {{0, length}};
    if (settings.is_slide)
      windows = windows_along(length, (*settings.crop_size).*side, (*settings.stride).*side);
    return Axis{length,
                windows,
                back_steps(steps, side),
                settings.is_one_step,
                deploy_.output.pad_multiple,
                settings.align_corners};
  };
  Prepared prepared{
      image, axis(image.rows, &cv::Size::height), axis(image.cols, &cv::Size::width), {}};
  for (int row = 0; row < static_cast<int>(prepared.rows.windows.size()); ++row)
    prepared.reaches.push_back(prepared.rows.reach(row));
  if (settings.is_one_step &&
      (deploy_.output.pad_multiple > 1 ||
       std::any_of(steps.begin(), steps.end(), [](const SizeStep& step) { return step.pads; })))
    fail(
        "is_one_step: padding is cropped off at the network's input size. Switch off is_one_step, "
        "or remove the padding.");
  const auto [top, bottom] = prepared.rows.windows[0];
  const auto [left, right] = prepared.columns.windows[0];
  check_input(bottom - top, right - left);
  return prepared;
}

void Pipeline::check_input(int height, int width) const {
  const std::string size = text(height, "x", width, " px (height x width)");
  const auto& shape = deploy_.input.shape;
  if ((shape[2] != -1 && shape[2] != height) || (shape[3] != -1 && shape[3] != width))
    fail("network input: found ", size, ", but the model was exported for ", shape[2], "x",
         shape[3], ". Bring images or windows to that size, or export without --input_shape.");
  if (std::min(height, width) < deploy_.input.min_side_px)
    fail("image of ", height, "x", width, " px: the network needs ", deploy_.input.min_side_px,
         " px or more per side. Resize it, or pad it.");
  if (std::max(height, width) > max_side_px_)
    fail("image of ", size, ": more than ", max_side_px_, " px at once. Use a sliding window ",
         "(--is_slide --crop_size 1024 1024), or raise --max_side_px.");
}

void Pipeline::compute(const Prepared& prepared, std::vector<WindowKey> keys, Timings& timings) {
  keys.erase(std::remove_if(keys.begin(), keys.end(),
                            [&](const WindowKey& key) { return pieces_.count(key) > 0; }),
             keys.end());
  const int exported_batch = deploy_.input.shape[0];
  const auto batch = static_cast<std::size_t>(exported_batch == -1 ? deploy_.settings.window_batch
                                                                   : exported_batch);
  for (std::size_t start = 0; start < keys.size(); start += batch) {
    const std::vector<WindowKey> part(keys.begin() + start,
                                      keys.begin() + std::min(start + batch, keys.size()));
    std::vector<WindowKey> filled = part;  // a fixed batch is filled up with the last window
    if (exported_batch != -1) filled.resize(batch, part.back());
    const Tensor input = [&] {
      const Timings::Scope scope(timings, Step::kPreprocess);
      return read(prepared, filled);
    }();
    const Tensor logits = [&] {
      const Timings::Scope scope(timings, Step::kNetwork);
      return engine_.run(input);
    }();
    const Timings::Scope scope(timings, Step::kUpsample);
    keep(prepared, part, logits);
  }
}

Tensor Pipeline::read(const Prepared& prepared, const std::vector<WindowKey>& keys) const {
  Tensor input;
  for (std::size_t index = 0; index < keys.size(); ++index) {
    const auto [top, bottom] = prepared.rows.windows[keys[index].first];
    const auto [left, right] = prepared.columns.windows[keys[index].second];
    if (index == 0) {
      input.shape = {static_cast<int>(keys.size()), prepared.image.channels(), bottom - top,
                     right - left};
      input.values.resize(keys.size() * input.item_size());
    }
    write_planes(prepared.image(cv::Range(top, bottom), cv::Range(left, right)),
                 deploy_.normalization, input.values.data() + index * input.item_size());
  }
  return input;
}

void Pipeline::keep(const Prepared& prepared, const std::vector<WindowKey>& keys,
                    const Tensor& logits) {
  const auto [num_windows, num_classes, height, width] = logits.shape;
  if (num_windows < static_cast<int>(keys.size()) || num_classes != deploy_.output.num_classes)
    fail("the network gave ", num_windows, " maps of ", num_classes, " classes, expected ",
         keys.size(), " of ", deploy_.output.num_classes, ". Export the model again.");
  if (!std::all_of(logits.values.begin(), logits.values.end(),
                   [](float value) { return std::isfinite(value); }))
    fail(
        "the network's logits are not finite (NaN or infinite): its weights are broken, or the "
        "image holds such values. Check both.");
  for (std::size_t index = 0; index < keys.size(); ++index) {
    const auto [row, column] = keys[index];
    const auto first = logits.values.begin() + index * logits.item_size();
    pieces_.insert_or_assign(
        keys[index], Piece{std::vector<float>(first, first + logits.item_size()), num_classes,
                           height, width, Resampling(prepared.rows.to_original(row, height)),
                           Resampling(prepared.columns.to_original(column, width))});
  }
}

}  // namespace segment
