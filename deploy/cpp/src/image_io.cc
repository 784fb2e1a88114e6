#include "image_io.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <set>

#include "error.h"
#include "files.h"

namespace segment {

namespace fs = std::filesystem;

namespace {

constexpr char kMaxPixelsName[] = "PADDLESEG_SEGFORMER_MAX_PIXELS";  // environment variable
constexpr std::size_t kMaxPixels = 1 << 28;
constexpr double kOverlayAlpha = 0.4;  // the image counts 0.6, the colours 0.4
// .npy is among them so that such a file is reported by name
const std::set<std::string> kSuffixes = {".jpg",  ".jpeg", ".png",  ".bmp",
                                         ".webp", ".tif",  ".tiff", ".npy"};

std::string suffix_of(const fs::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char letter) { return std::tolower(letter); });
  return suffix;
}

struct Found {
  fs::path path;
  fs::path relative;  // to the folder or list
};

std::vector<Found> in_folder(const fs::path& folder) {
  std::vector<Found> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (kSuffixes.count(suffix_of(entry.path())) > 0)
      found.push_back({entry.path(), entry.path().lexically_relative(folder)});
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.relative < b.relative; });
  if (found.empty()) fail(folder.string(), ": no images in this folder.");
  return found;
}

/// Reads a list: an image a line, relative to the list's folder; a second column is passed over.
std::vector<Found> in_list(const fs::path& list) {
  std::vector<Found> found;
  std::ifstream file(list);
  for (std::string line; std::getline(file, line);) {
    line.erase(0, line.find_first_not_of(" \t\r"));
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (line.empty()) continue;
    const fs::path root = list.parent_path();
    if (!fs::is_regular_file(root / line)) line = line.substr(0, line.find_first_of(" \t"));
    fs::path below;
    for (const fs::path& part : fs::path(line).relative_path())
      if (part != "..") below /= part;
    found.push_back({root / line, below});
  }
  if (found.empty()) fail(list.string(), ": names no images.");
  return found;
}

/// Tells whether a JPEG lacks its end, where the decoder would fill the rest with grey.
bool is_cut_jpeg(const Bytes& content) {
  constexpr std::array<std::uint8_t, 2> kStart = {0xff, 0xd8}, kScan = {0xff, 0xda},
                                        kEnd = {0xff, 0xd9};
  if (content.size() < 2 || !std::equal(kStart.begin(), kStart.end(), content.begin()))
    return false;
  const auto end = std::find_end(content.begin(), content.end(), kEnd.begin(), kEnd.end());
  return std::search(end, content.end(), kScan.begin(), kScan.end()) != content.end() ||
         end == content.end();
}

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

cv::Mat decode(const fs::path& path, int flag) {
  const Bytes content = read_bytes(path);
  if (is_cut_jpeg(content))
    fail(path.string(), ": the JPEG file is cut off. Replace it or remove it.");
  cv::Mat image;
  try {
    image = cv::imdecode(content, flag);
  } catch (const cv::Exception&) {  // such as more pixels than OpenCV decodes; told below
  }
  if (image.empty())
    fail(path.string(), ": cannot be decoded as an image. Replace it or remove it.");
  if (image.total() > max_pixels())
    fail(path.string(), ": found ", image.rows, "x", image.cols, " px (height x width), expected ",
         "at most ", max_pixels(), " px. Cut the image into tiles, or raise ", kMaxPixelsName, ".");
  if (image.channels() == 3) cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
  if (image.channels() == 4) cv::cvtColor(image, image, cv::COLOR_BGRA2RGBA);
  return image;
}

/// Reads an image with all its bands: the pages of a TIFF file, or its channels.
cv::Mat read_bands(const fs::path& path) {
  std::vector<cv::Mat> pages;
  const std::string suffix = suffix_of(path);
  if (suffix == ".tif" || suffix == ".tiff")
    cv::imreadmulti(path.string(), pages, cv::IMREAD_UNCHANGED);
  if (pages.size() < 2) return decode(path, cv::IMREAD_UNCHANGED);
  for (const cv::Mat& page : pages)
    if (page.size() != pages[0].size() || page.type() != pages[0].type())
      fail(path.string(), ": the pages differ in size; expected one page per band.");
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
      const cv::Vec3b& rgb = palette[id];
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

std::vector<ImageFile> find_images(const fs::path& path) {
  if (!fs::exists(path)) fail(path.string(), ": no such file or folder (--image_path).");
  std::vector<Found> found = {{path, path.filename()}};
  if (fs::is_directory(path))
    found = in_folder(path);
  else if (suffix_of(path) == ".txt")
    found = in_list(path);

  const auto without_suffix = [](fs::path name) { return name.replace_extension().string(); };
  std::map<std::string, int> counts;  // a.jpg and a.png keep their suffixes
  for (const Found& item : found) ++counts[without_suffix(item.relative)];
  std::vector<ImageFile> images;
  for (const Found& item : found) {
    const std::string stem = without_suffix(item.relative);
    images.push_back({item.path, counts[stem] > 1 ? item.relative.string() : stem});
  }
  return images;
}

cv::Mat read_image(const fs::path& path, int num_channels) {
  if (suffix_of(path) == ".npy")
    fail(path.string(), ": NumPy arrays are not read by this program; use deploy/python/infer.py.");
  cv::Mat image = num_channels == 3   ? decode(path, cv::IMREAD_COLOR)
                  : num_channels == 1 ? decode(path, cv::IMREAD_GRAYSCALE)
                                      : read_bands(path);
  if (image.channels() != num_channels)
    fail(path.string(), ": found an image of ", image.channels(), " channels, expected ",
         num_channels, ".");
  if (image.depth() != CV_8U) image.convertTo(image, CV_32F);
  return image;
}

cv::Mat read_label(const fs::path& path) {
  cv::Mat label = decode(path, cv::IMREAD_UNCHANGED);
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

void write_overlay(const fs::path& path, const cv::Mat& image, const cv::Mat& label,
                   const std::vector<cv::Vec3b>& palette) {
  cv::Mat overlay;
  cv::addWeighted(displayable(image), 1 - kOverlayAlpha, colored(label, palette), kOverlayAlpha, 0,
                  overlay);
  write_bytes(path, encode_png(overlay));
}

}  // namespace segment
