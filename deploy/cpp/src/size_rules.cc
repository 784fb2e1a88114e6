#include "size_rules.h"

#include <cmath>
#include <map>
#include <opencv2/imgproc.hpp>

#include "error.h"
#include "linear_map.h"
#include "pillow_resize.h"

namespace segment {

namespace {

using ResizeSize = std::function<cv::Size(cv::Size)>;

const std::map<std::string, int> kInterpolations = {{"NEAREST", cv::INTER_NEAREST},
                                                    {"LINEAR", cv::INTER_LINEAR},
                                                    {"CUBIC", cv::INTER_CUBIC},
                                                    {"AREA", cv::INTER_AREA},
                                                    {"LANCZOS4", cv::INTER_LANCZOS4}};

int half_to_even(double value) { return static_cast<int>(std::nearbyint(value)); }

int half_up(double value) { return std::max(1, static_cast<int>(value + 0.5)); }

/// Returns both sides times `factor`, rounded half to even, at least 1.
cv::Size scaled(cv::Size size, double factor) {
  return {std::max(1, half_to_even(size.width * factor)),
          std::max(1, half_to_even(size.height * factor))};
}

/// Returns the factor that fits the long side into the larger limit, the short into the other.
double fit_factor(cv::Size size, cv::Size limits) {
  const auto [short_limit, long_limit] = std::minmax(limits.width, limits.height);
  const auto [short_side, long_side] = std::minmax(size.width, size.height);
  return std::min(static_cast<double>(long_limit) / long_side,
                  static_cast<double>(short_limit) / short_side);
}

cv::Size ceil_to_multiple(cv::Size size, int divisor) {
  return {(size.width + divisor - 1) / divisor * divisor,
          (size.height + divisor - 1) / divisor * divisor};
}

cv::Mat resized(const cv::Mat& image, cv::Size size, bool as_float,
                int interpolation = cv::INTER_LINEAR) {
  if (image.size() == size) return image;
  cv::Mat source = image, result;
  if (as_float) image.convertTo(source, CV_32F);
  if (source.depth() == CV_32F && interpolation == cv::INTER_LINEAR)
    return resize_bilinear(source, size);
  cv::resize(source, result, size, 0, 0, interpolation);
  return result;
}

SizeRule resize_rule(ResizeSize new_size, bool as_float, int interpolation = cv::INTER_LINEAR) {
  return {false, [=](const cv::Mat& image) {
            return resized(image, new_size(image.size()), as_float, interpolation);
          }};
}

int positive(const Section& section, const std::string& key) {
  const int value = section.get<int>(key);
  if (value < 1) fail(section.name_of(key), ": found ", value, ", expected 1 or more.");
  return value;
}

/// Returns a size written as [width, height].
cv::Size size_of(const Section& section, const std::string& key) {
  const auto sides = section.get<std::vector<int>>(key);
  if (sides.size() != 2 || std::min(sides[0], sides[1]) < 1)
    fail(section.name_of(key), ": expected [width, height] in whole pixels above 0.");
  return {sides[0], sides[1]};
}

SizeRule make_resize(const Section& section) {
  section.expect_only({"type", "target_size", "keep_ratio", "size_divisor", "interp"});
  const cv::Size target = size_of(section, "target_size");
  const bool keeps_ratio = section.get("keep_ratio", false);
  const int divisor = section.has("size_divisor") ? positive(section, "size_divisor") : 1;
  const auto interpolation = kInterpolations.find(section.get<std::string>("interp", "LINEAR"));
  if (interpolation == kInterpolations.end())
    fail(section.name_of("interp"),
         ": this program knows NEAREST, LINEAR, CUBIC, AREA and LANCZOS4.");
  const auto new_size = [=](cv::Size size) {
    cv::Size result = target;
    if (keeps_ratio) {
      const double factor = fit_factor(size, target);
      result = {half_to_even(size.width * factor), half_to_even(size.height * factor)};
    }
    return ceil_to_multiple(result, divisor);
  };
  return resize_rule(new_size, true, interpolation->second);
}

SizeRule make_resize_by_short(const Section& section) {
  section.expect_only({"type", "short_size", "max_size"});
  const std::vector<double> sizes = section.numbers("short_size");
  const double max_size = section.get("max_size", 1e10);
  if (sizes.size() != 1 || sizes[0] < 1 || max_size < 1)
    fail(section.name(), ": this program takes one short_size and a max_size above 0.");
  const auto new_size = [short_size = sizes[0], max_size](cv::Size size) {
    const auto [short_side, long_side] = std::minmax(size.width, size.height);
    double target = short_size;
    if (target / short_side * long_side > max_size)
      target = std::max(1.0, std::trunc(max_size / long_side * short_side));
    return scaled(size, target / short_side);
  };
  return resize_rule(new_size, true);
}

SizeRule make_resize_by_long(const Section& section) {
  section.expect_only({"type", "long_size"});
  const double target = positive(section, "long_size");
  return resize_rule(
      [=](cv::Size size) { return scaled(size, target / std::max(size.width, size.height)); },
      true);
}

SizeRule make_limit_long(const Section& section) {
  section.expect_only({"type", "max_long", "min_long"});
  const auto most = section.find<int>("max_long"), least = section.find<int>("min_long");
  const auto new_size = [=](cv::Size size) {
    const int long_side = std::max(size.width, size.height);
    int target = most ? std::min(long_side, *most) : long_side;
    target = least ? std::max(target, *least) : target;
    return scaled(size, static_cast<double>(target) / long_side);
  };
  return resize_rule(new_size, true);
}

cv::Size fitted(cv::Size size, cv::Size limits) {
  const double factor = fit_factor(size, limits);
  return {half_up(size.width * factor), half_up(size.height * factor)};
}

SizeRule make_resize_keep_ratio(const Section& section) {
  section.expect_only({"type", "scale"});
  const cv::Size scale = size_of(section, "scale");
  return resize_rule([=](cv::Size size) { return fitted(size, scale); }, false);
}

SizeRule make_aligned_resize(const Section& section) {
  section.expect_only({"type", "scale", "size_divisor"});
  const cv::Size scale = size_of(section, "scale");
  const int divisor = positive(section, "size_divisor");
  return {false, [=](const cv::Mat& image) {
            const cv::Size size = fitted(image.size(), scale);
            return resized(resized(image, size, false), ceil_to_multiple(size, divisor), false);
          }};
}

SizeRule make_resize_to_multiple(const Section& section) {
  section.expect_only({"type", "size_divisor"});
  const int divisor = positive(section, "size_divisor");
  return resize_rule([=](cv::Size size) { return ceil_to_multiple(size, divisor); }, false);
}

SizeRule make_antialias_resize(const Section& section) {
  section.expect_only({"type", "target_size", "resample"});
  const cv::Size target = size_of(section, "target_size");
  const PillowFilter filter = pillow_filter(section.get<std::string>("resample", "BILINEAR"));
  return {false, [=](const cv::Mat& image) { return pillow_resize(image, target, filter); }};
}

SizeRule make_antialias_resize_by_short(const Section& section) {
  section.expect_only({"type", "short_size", "max_size", "resample"});
  const int short_size = positive(section, "short_size");
  const double limit = section.find<int>("max_size") ? positive(section, "max_size") : HUGE_VAL;
  const PillowFilter filter = pillow_filter(section.get<std::string>("resample", "BILINEAR"));
  return {false, [=](const cv::Mat& image) {
            const auto [short_side, long_side] = std::minmax(image.rows, image.cols);
            double exact = short_size;
            if (static_cast<double>(long_side) / short_side * short_size > limit)
              exact = limit * short_side / long_side;
            const int new_short = std::max(1, half_to_even(exact));
            if (new_short == short_side) return image;
            const int new_long = std::max(1, static_cast<int>(exact * long_side / short_side));
            const bool is_tall = image.rows > image.cols;
            return pillow_resize(
                image, is_tall ? cv::Size(new_short, new_long) : cv::Size(new_long, new_short),
                filter);
          }};
}

SizeRule make_padding(const Section& section) {
  section.expect_only({"type", "target_size", "im_padding_value", "label_padding_value"});
  const cv::Size target = size_of(section, "target_size");
  const std::vector<double> values = section.numbers("im_padding_value");
  const bool is_whole = std::all_of(values.begin(), values.end(),
                                    [](double value) { return value == std::nearbyint(value); });
  return {true, [=](const cv::Mat& image) {
            if (image.rows > target.height || image.cols > target.width)
              fail("Padding: the image is ", image.rows, "x", image.cols,
                   " (height x width), larger than the target ", target.height, "x", target.width,
                   ". Resize or crop it first.");
            if (image.size() == target) return image;
            if (values.size() != 1 && values.size() != static_cast<std::size_t>(image.channels()))
              fail("Padding: im_padding_value has ", values.size(), " values, the image has ",
                   image.channels(), " channels.");
            std::vector<cv::Mat> channels;
            cv::split(image, channels);
            for (std::size_t i = 0; i < channels.size(); ++i) {
              if (!is_whole) channels[i].convertTo(channels[i], CV_32F);
              cv::copyMakeBorder(channels[i], channels[i], 0, target.height - image.rows, 0,
                                 target.width - image.cols, cv::BORDER_CONSTANT,
                                 values[values.size() == 1 ? 0 : i]);
            }
            cv::Mat result;
            cv::merge(channels, result);
            return result;
          }};
}

const std::map<std::string, SizeRule (*)(const Section&)> kRules = {
    {"Resize", make_resize},
    {"ResizeByShort", make_resize_by_short},
    {"ResizeByLong", make_resize_by_long},
    {"LimitLong", make_limit_long},
    {"ResizeKeepRatio", make_resize_keep_ratio},
    {"AlignedResize", make_aligned_resize},
    {"ResizeToMultiple", make_resize_to_multiple},
    {"AntialiasResize", make_antialias_resize},
    {"AntialiasResizeByShort", make_antialias_resize_by_short},
    {"Padding", make_padding},
};

}  // namespace

SizeRule make_size_rule(const Section& section) {
  const auto type = section.get<std::string>("type");
  const auto rule = kRules.find(type);
  if (rule == kRules.end()) {
    std::string known;
    for (const auto& [name, make] : kRules) known += (known.empty() ? "" : ", ") + name;
    fail(section.name(), ": '", type, "' is not supported by this program, which knows ", known,
         " and, last, Normalize.");
  }
  return rule->second(section);
}

}  // namespace segment
