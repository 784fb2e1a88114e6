#include "pillow_resize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <type_traits>
#include <vector>

#include "error.h"

namespace segment {

namespace {

constexpr int kPrecisionBits = 22;  // of the weights for uint8
constexpr double kPi = 3.14159265358979323846;

double sinc(double x) { return x == 0 ? 1 : std::sin(kPi * x) / (kPi * x); }

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

const std::map<std::string, PillowFilter> kFilters = {
    {"NEAREST", {0, nullptr}},
    {"BOX", {0.5, [](double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }}},
    {"BILINEAR", {1, [](double x) { return std::max(0.0, 1 - std::abs(x)); }}},
    {"HAMMING",
     {1,
      [](double x) {
        return std::abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * std::cos(kPi * x)) : 0.0;
      }}},
    {"BICUBIC", {2, cubic}},
    {"LANCZOS", {3, [](double x) { return std::abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0.0; }}},
};

/// The inputs that one output is made of.
struct Taps {
  int first;
  std::vector<double> weights;
};

std::vector<Taps> taps_along(int num_inputs, int num_outputs, const PillowFilter& filter) {
  const double step = static_cast<double>(num_inputs) / num_outputs;
  const double widening = std::max(step, 1.0);
  const double support = filter.support * widening;
  std::vector<Taps> result(num_outputs);
  for (int i = 0; i < num_outputs; ++i) {
    const double center = (i + 0.5) * step;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int last = std::min(static_cast<int>(center + support + 0.5), num_inputs);
    result[i].first = first;
    double sum = 0;
    for (int input = first; input < last; ++input) {
      result[i].weights.push_back(filter.weight((input - center + 0.5) / widening));
      sum += result[i].weights.back();
    }
    for (double& weight : result[i].weights) weight /= sum;
  }
  return result;
}

/// A weight as the arithmetic of `T` takes it, and back from the sum of products.
template <typename T>
struct Arithmetic;

template <>
struct Arithmetic<std::uint8_t> {
  using Sum = int;
  static constexpr Sum kStart = 1 << (kPrecisionBits - 1);
  static Sum weight(double value) {
    return static_cast<int>(value * (1 << kPrecisionBits) + (value < 0 ? -0.5 : 0.5));
  }
  static std::uint8_t result(Sum sum) {
    return cv::saturate_cast<std::uint8_t>(sum >> kPrecisionBits);
  }
};

template <>
struct Arithmetic<float> {
  using Sum = double;
  static constexpr Sum kStart = 0;
  static Sum weight(double value) { return value; }
  static float result(Sum sum) { return static_cast<float>(sum); }
};

/// Resamples each row to `num_outputs` pixels.
template <typename T>
cv::Mat resample_rows(const cv::Mat& image, int num_outputs, const PillowFilter& filter) {
  using Math = Arithmetic<T>;
  const int channels = image.channels();
  cv::Mat result(image.rows, num_outputs, image.type());
  const std::vector<Taps> taps = taps_along(image.cols, num_outputs, filter);
  for (int i = 0; i < num_outputs; ++i) {
    std::vector<typename Math::Sum> weights;
    for (double weight : taps[i].weights) weights.push_back(Math::weight(weight));
    for (int row = 0; row < image.rows; ++row) {
      const T* input = image.ptr<T>(row, taps[i].first);
      T* output = result.ptr<T>(row, i);
      for (int channel = 0; channel < channels; ++channel) {
        typename Math::Sum sum = Math::kStart;
        for (std::size_t tap = 0; tap < weights.size(); ++tap)
          sum += input[tap * channels + channel] * weights[tap];
        output[channel] = Math::result(sum);
      }
    }
  }
  return result;
}

/// Resamples each column to `num_outputs` pixels.
template <typename T>
cv::Mat resample_columns(const cv::Mat& image, int num_outputs, const PillowFilter& filter) {
  cv::Mat turned, result;
  cv::transpose(image, turned);
  cv::transpose(resample_rows<T>(turned, num_outputs, filter), result);
  return result;
}

template <typename T>
cv::Mat resample(const cv::Mat& image, cv::Size size, const PillowFilter& filter) {
  const int fewer_rows = image.rows - size.height, fewer_columns = image.cols - size.width;
  if (fewer_columns == 0) return resample_columns<T>(image, size.height, filter);
  if (fewer_rows == 0) return resample_rows<T>(image, size.width, filter);
  // Rounding in between makes the order matter. This is that of Pillow 13; it was found by trying,
  // and earlier versions always begin with the rows.
  if (fewer_rows > 0 && fewer_rows > 2 * fewer_columns)
    return resample_rows<T>(resample_columns<T>(image, size.height, filter), size.width, filter);
  return resample_columns<T>(resample_rows<T>(image, size.width, filter), size.height, filter);
}

cv::Mat nearest(const cv::Mat& image, cv::Size size) {
  cv::Mat columns(image.rows, size.width, image.type()), result(size, image.type());
  const double step_x = static_cast<double>(image.cols) / size.width;
  const double step_y = static_cast<double>(image.rows) / size.height;
  double position = step_x / 2;
  for (int x = 0; x < size.width; ++x, position += step_x)
    image.col(static_cast<int>(position)).copyTo(columns.col(x));
  position = step_y / 2;
  for (int y = 0; y < size.height; ++y, position += step_y)
    columns.row(static_cast<int>(position)).copyTo(result.row(y));
  return result;
}

}  // namespace

PillowFilter pillow_filter(const std::string& name) {
  const auto filter = kFilters.find(name);
  if (filter == kFilters.end())
    fail("AntialiasResize.resample: found '", name,
         "', expected NEAREST, BOX, BILINEAR, HAMMING, BICUBIC or LANCZOS.");
  return filter->second;
}

cv::Mat pillow_resize(const cv::Mat& image, cv::Size size, const PillowFilter& filter) {
  if (image.size() == size) return image;
  if (filter.support == 0) return nearest(image, size);
  return image.depth() == CV_8U ? resample<std::uint8_t>(image, size, filter)
                                : resample<float>(image, size, filter);
}

}  // namespace segment
