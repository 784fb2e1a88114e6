#include "image_io.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "error.h"
#include "files.h"
#include "image_header.h"

namespace segment {

namespace fs = std::filesystem;

namespace {

constexpr char kMaxPixelsName[] = "PADDLESEG_SEGFORMER_MAX_PIXELS";  // environment variable
constexpr std::size_t kMaxPixels = 1 << 28;
constexpr double kOverlayAlpha = 0.4;  // the image counts 0.6, the colours 0.4

/// Returns the bound on height x width of an image; the one of Python.
std::size_t max_pixels() {
  const char* const found = std::getenv(kMaxPixelsName);
  if (found == nullptr) return kMaxPixels;
  const std::string digits = found;
  const bool is_number = digits.size() > 0 && digits.size() < 16 &&
                         digits.find_first_not_of("0123456789") == std::string::npos;
  const std::size_t value = is_number ? std::stoull(digits) : 0;
  if (value == 0)
    fail(kMaxPixelsName, ": found '", digits, "', expected a number of pixels above 0.");
  return value;
}

/// Returns an image turned as EXIF counts, 1 to 8.
cv::Mat turned(cv::Mat image, int orientation) {
  constexpr int kRows = 0, kColumns = 1, kBoth = -1;
  static const std::map<int, int> kFlips = {{2, kColumns}, {3, kBoth}, {4, kRows},
                                            {6, kColumns}, {7, kBoth}, {8, kRows}};
  if (orientation >= 5 && orientation <= 8) cv::transpose(image, image);
  const auto flip = kFlips.find(orientation);
  if (flip != kFlips.end()) cv::flip(image, image, flip->second);
  return image;
}

/// Decodes a file, colours in the order red, green, blue. It is turned here, since versions of
/// OpenCV turn PNG and WebP or not, and miss EXIF that follows other metadata in a JPEG.
cv::Mat decode(const std::string& path, const Bytes& content, int flag) {
  const int orientation = exif_orientation(path, content);
  if (orientation != 1 && flag != cv::IMREAD_UNCHANGED) flag |= cv::IMREAD_IGNORE_ORIENTATION;
  cv::Mat image;
  try {
    image = cv::imdecode(content, flag);
  } catch (const cv::Exception&) {  // such as more pixels than OpenCV decodes; told below
  }
  if (image.empty()) fail(path, ": cannot be decoded as an image. Replace it or remove it.");
  if (image.total() > max_pixels())
    fail(path, ": found ", image.rows, "x", image.cols, " px (height x width), expected at most ",
         max_pixels(), " px. Cut the image into tiles, or raise ", kMaxPixelsName, ".");
  if (image.channels() == 3) cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
  if (image.channels() == 4) cv::cvtColor(image, image, cv::COLOR_BGRA2RGBA);
  return turned(image, orientation);
}

/// Reads an image of 16 bits in 8, their upper ones; refuses values of 8 to 12 bits, of which a
/// few levels would stay.
cv::Mat decode_16_bits(const std::string& path, const Bytes& content, int flag) {
  const cv::Mat stored = decode(path, content, cv::IMREAD_UNCHANGED);
  cv::Mat colors = stored;
  if (stored.channels() == 4) cv::cvtColor(stored, colors, cv::COLOR_RGBA2RGB);  // alpha is opaque
  double highest = 0;
  cv::minMaxLoc(colors.reshape(1), nullptr, &highest);
  if (highest > 0 && highest < 4096)
    fail(path, ": found 16-bit values of at most ", highest, "; of 0..65535, as is assumed, they ",
         "would keep ", static_cast<int>(highest) / 256 + 1,
         " levels. Scale them to 0..65535 or to 8 bits.");
  if (image_format(path, content) == ImageFormat::kPng) return decode(path, content, flag);
  // OpenCV scrambles the tiles at the edges of a TIFF where it makes 8 bits of 16 itself
  cv::Mat image(stored.size(), CV_8UC(stored.channels()));
  const auto* values = stored.ptr<std::uint16_t>();
  const int inverted = is_white_zero(content) ? 255 : 0;
  std::transform(values, values + stored.total() * stored.channels(), image.ptr(),
                 [&](std::uint16_t value) { return (value >> 8) ^ inverted; });
  const bool is_grey = image.channels() == 1, needs_grey = flag == cv::IMREAD_GRAYSCALE;
  if (is_grey != needs_grey)
    cv::cvtColor(image, image, needs_grey ? cv::COLOR_RGB2GRAY : cv::COLOR_GRAY2RGB);
  return image;
}

/// Reads an image with all its bands: the pages of a TIFF file, or its channels.
cv::Mat decode_bands(const std::string& path, const Bytes& content) {
  if (image_format(path, content) != ImageFormat::kTiff)
    return decode(path, content, cv::IMREAD_UNCHANGED);
  std::vector<cv::Mat> pages;
  cv::imreadmulti(path, pages, cv::IMREAD_UNCHANGED);
  if (pages.empty()) fail(path, ": cannot be decoded as an image. Replace it or remove it.");
  cv::Mat image;
  cv::merge(pages, image);
  return image;
}

/// Returns an image of any number of channels as 8-bit BGR: grey, or its first three channels.
cv::Mat displayable(const cv::Mat& image) {
  cv::Mat bytes, result;
  image.convertTo(bytes, CV_8U);
  const bool is_color = bytes.channels() >= 3;
  std::array<cv::Mat, 3> channels;
  for (int i = 0; i < 3; ++i) cv::extractChannel(bytes, channels[i], is_color ? 2 - i : 0);
  cv::merge(channels.data(), channels.size(), result);
  return result;
}

/// Returns the label in its classes' colours, 8-bit BGR.
cv::Mat colored(const cv::Mat& label, const std::vector<cv::Vec3b>& palette) {
  cv::Mat result(label.size(), CV_8UC3);
  for (int row = 0; row < label.rows; ++row)
    for (int column = 0; column < label.cols; ++column) {
      const int id = label.depth() == CV_8U ? label.at<std::uint8_t>(row, column)
                                            : label.at<std::uint16_t>(row, column);
      const bool is_class = id < static_cast<int>(palette.size());  // unknown pixels are none
      const cv::Vec3b rgb = is_class ? palette[id] : cv::Vec3b();
      result.at<cv::Vec3b>(row, column) = {rgb[2], rgb[1], rgb[0]};
    }
  return result;
}

Bytes encode_palette_png(const cv::Mat& label, const std::vector<cv::Vec3b>& palette) {
  std::array<cv::Vec3b, 256> colors{};
  std::copy_n(palette.begin(), std::min<std::size_t>(palette.size(), 256), colors.begin());
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(label.cols);
  image.height = static_cast<png_uint_32>(label.rows);
  image.format = PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = 256;
  Bytes content(PNG_IMAGE_PNG_SIZE_MAX(image));
  png_alloc_size_t size = content.size();
  const auto stride = static_cast<png_int_32>(label.step);
  if (!png_image_write_to_memory(&image, content.data(), &size, 0, label.data, stride,
                                 colors.data()))
    fail("a label map cannot be written as PNG (", image.message, ").");
  content.resize(size);
  return content;
}

Bytes encode_png(const cv::Mat& image) {
  Bytes content;
  cv::imencode(".png", image, content);
  return content;
}

}  // namespace

cv::Mat read_image(const fs::path& file, int num_channels) {
  const std::string path = file.string();
  if (file.extension() == ".npy")
    fail(path, ": NumPy arrays are not read by this program; use deploy/python/infer.py.");
  const Bytes content = read_bytes(file);
  check_image(path, content, num_channels);
  const int flag = num_channels == 3 ? cv::IMREAD_COLOR : cv::IMREAD_GRAYSCALE;
  const bool has_bands = num_channels != 1 && num_channels != 3;
  cv::Mat image = has_bands              ? decode_bands(path, content)
                  : has_16_bits(content) ? decode_16_bits(path, content, flag)
                                         : decode(path, content, flag);
  if (image.channels() != num_channels)
    fail(path, ": found an image of ", image.channels(), " channels, expected ", num_channels, ".");
  if (image.depth() != CV_8U) image.convertTo(image, CV_32F);
  return image;
}

cv::Mat read_label(const fs::path& path) {
  const Bytes content = read_bytes(path);
  if (!is_grey_png(content) || exif_orientation(path.string(), content) != 1)
    fail(path.string(), ": not an upright PNG of one class id per pixel in 8 or 16 bits.");
  cv::Mat label = decode(path.string(), content, cv::IMREAD_UNCHANGED);
  if (label.channels() != 1)
    fail(path.string(), ": found ", label.channels(),
         " channels, expected one class id per pixel.");
  label.convertTo(label, CV_16U);
  return label;
}

void write_label(const fs::path& path, const cv::Mat& label,
                 const std::vector<cv::Vec3b>& palette) {
  double largest = 0;
  cv::minMaxLoc(label, nullptr, &largest);
  if (largest > 255) return write_bytes(path, encode_png(label));
  cv::Mat ids;
  label.convertTo(ids, CV_8U);
  write_bytes(path, encode_palette_png(ids, palette));
}

void write_confidence(const fs::path& path, const cv::Mat& confidence) {
  cv::Mat levels;
  confidence.convertTo(levels, CV_8U, 255);
  write_bytes(path, encode_png(levels));
}

void write_overlay(const fs::path& path, const cv::Mat& image, const cv::Mat& label,
                   const std::vector<cv::Vec3b>& palette) {
  cv::Mat overlay;
  cv::addWeighted(displayable(image), 1 - kOverlayAlpha, colored(label, palette), kOverlayAlpha, 0,
                  overlay);
  write_bytes(path, encode_png(overlay));
}

}  // namespace segment
