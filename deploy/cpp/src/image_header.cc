#include "image_header.h"

#include <string_view>

#include "error.h"

namespace segment {

namespace {

constexpr int kMaxScans = 100;       // of a progressive JPEG; encoders write about 10
constexpr int kMaxChunks = 100'000;  // of a PNG; the usual ones hold 8 KiB or more
constexpr int kMaxTexts = 100;       // compressed ones of a PNG; encoders write one or two
constexpr char kRemedy[] = "Use deploy/python/infer.py, or save the image as an 8-bit PNG.";

std::string_view view(const Bytes& content) {
  return {reinterpret_cast<const char*>(content.data()), content.size()};
}

bool has_at(std::string_view content, std::size_t start, std::string_view expected) {
  return content.size() >= start && content.substr(start, expected.size()) == expected;
}

/// Returns an unsigned number; what lies beyond the end is 0.
std::uint32_t number(std::string_view content, std::size_t start, int num_bytes, bool is_big) {
  std::uint32_t value = 0;
  for (int index = 0; index < num_bytes; ++index) {
    const std::size_t at = start + (is_big ? index : num_bytes - 1 - index);
    value = value << 8 | (at < content.size() ? static_cast<unsigned char>(content[at]) : 0);
  }
  return value;
}

/// The tags of a TIFF file, or of EXIF data, which are kept alike. A page is told by its offset.
class TiffTags {
 public:
  enum Tag {
    kWidth = 256,
    kHeight = 257,
    kBits = 258,
    kPhotometric = 262,
    kOrientation = 274,
    kSamples = 277,
    kPlanar = 284,
    kSampleFormat = 339
  };

  explicit TiffTags(std::string_view content)
      : content_(content), is_big_(has_at(content, 0, "MM")) {}

  std::uint32_t first_page() const { return read(4, 4); }
  std::uint32_t next_page(std::uint32_t page) const { return read(end_of(page), 4); }

  /// Returns one of a tag's whole numbers, or what holds where the page lacks the tag.
  std::uint32_t get(std::uint32_t page, Tag tag, std::uint32_t fallback, unsigned index = 0) const {
    const std::size_t entry = find(page, tag);
    const std::uint32_t count = read(entry + 4, 4);
    if (entry == 0 || index >= count) return fallback;
    const int num_bytes = read(entry + 2, 2) == kShort ? 2 : 4;
    const std::size_t start = count * num_bytes > 4 ? read(entry + 8, 4) : entry + 8;
    return read(start + static_cast<std::size_t>(index) * num_bytes, num_bytes);
  }

  /// Tells whether a tag is one number of 16 bits, or missing.
  bool is_short(std::uint32_t page, Tag tag) const {
    const std::size_t entry = find(page, tag);
    return entry == 0 || (read(entry + 2, 2) == kShort && read(entry + 4, 4) == 1);
  }

 private:
  static constexpr std::uint32_t kShort = 3;  // the type of 16 bits

  std::size_t find(std::uint32_t page, Tag tag) const {
    for (std::size_t entry = page + 2; entry < end_of(page); entry += 12)
      if (read(entry, 2) == tag) return entry;
    return 0;
  }
  std::uint32_t read(std::size_t start, int num_bytes) const {
    return number(content_, start, num_bytes, is_big_);
  }
  std::size_t end_of(std::uint32_t page) const {
    return page + 2 + 12 * std::size_t{read(page, 2)};
  }

  std::string_view content_;
  bool is_big_;
};

/// Returns what a chunk of a PNG or WebP holds, or nothing.
std::string_view find_chunk(std::string_view content, std::string_view name) {
  const bool is_png = has_at(content, 0, "\x89PNG");
  std::size_t start = is_png ? 8 : 12;
  while (start + 8 <= content.size()) {
    const std::uint32_t size = number(content, start + (is_png ? 0 : 4), 4, is_png);
    if (has_at(content, start + (is_png ? 4 : 0), name)) return content.substr(start + 8, size);
    start += is_png ? 12 + std::size_t{size} : 8 + std::size_t{size} + size % 2;
  }
  return {};
}

/// Returns the first EXIF data of a JPEG, which other metadata may precede, or nothing.
std::string_view find_segment(std::string_view content) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  for (std::size_t start = 2; has_at(content, start, "\xff");) {
    const std::uint32_t marker = number(content, start + 1, 1, true);
    const std::uint32_t size = number(content, start + 2, 2, true);
    if (marker == 0xda) break;  // the pixels begin
    if (marker == 0xe1 && has_at(content, start + 4, kExif)) return content.substr(start + 4, size);
    start += marker == 0xff ? 1 : 2 + size;
  }
  return {};
}

void check_jpeg(const std::string& path, std::string_view content) {
  const std::string_view scan = "\xff\xda";  // neither it nor the end occurs in compressed data
  const std::size_t end = content.rfind("\xff\xd9");
  if (end == content.npos || content.find(scan, end) != content.npos)  // the rest would be grey
    fail(path, ": the JPEG file is cut off. Replace it or remove it.");
  int num_scans = 0;
  for (std::size_t at = 0; (at = content.find(scan, at)) != content.npos; ++at) ++num_scans;
  if (num_scans > kMaxScans)
    fail(path, ": a JPEG of ", num_scans, " scans, expected at most ", kMaxScans,
         ", since each may cost as much as a whole image. Save it again.");
}

void check_png(const std::string& path, std::string_view content) {
  if (content.substr(0, content.find("IDAT")).find("acTL") != content.npos)
    fail(path, ": an animated PNG, which versions of OpenCV read in different ways. ", kRemedy);
  std::size_t start = 8;
  int num_texts = 0;
  for (int count = 0; start + 8 <= content.size() && !has_at(content, start + 4, "IEND"); ++count) {
    const std::size_t size = number(content, start, 4, true);
    start += 8;
    if (size > content.size() - start)  // OpenCV 5 makes room for all that it claims
      fail(path, ": cannot be decoded as an image: a chunk of the PNG claims ", size,
           " bytes, found ", content.size() - start, ". Replace it or remove it.");
    if (count == kMaxChunks)
      fail(path, ": a PNG of more than ", kMaxChunks, " chunks. Save it again.");
    for (const char* name : {"zTXt", "iTXt", "iCCP"}) num_texts += has_at(content, start - 4, name);
    if (num_texts > kMaxTexts)
      fail(path, ": a PNG of more than ", kMaxTexts,
           " texts, each of which may cost as much as a whole image. Save it again.");
    start += size + 4;  // and its checksum
  }
}

/// Refuses a BMP whose colours lie in other bits than usual.
void check_bmp(const std::string& path, std::string_view content) {
  constexpr std::uint32_t kBitFields = 3;
  const bool is_old = number(content, 14, 4, false) < 40;  // a form without such bits
  if (is_old || number(content, 30, 4, false) != kBitFields) return;
  const auto mask = [&](int index) { return number(content, 54 + 4 * index, 4, false); };
  const bool is_32 = mask(0) == 0xff0000 && mask(1) == 0xff00 && mask(2) == 0xff;
  const bool is_16 =
      (mask(0) == 0xf800 && mask(1) == 0x7e0) || (mask(0) == 0x7c00 && mask(1) == 0x3e0);
  if (!is_32 && !(is_16 && mask(2) == 0x1f))
    fail(path, ": a BMP with uncommon colour masks. ", kRemedy);
}

/// Refuses TIFF files but those of one or three interleaved bands of 8 or 16 bits, and for other
/// numbers of channels those of a page per band.
void check_tiff(const std::string& path, std::string_view content, int num_channels) {
  const TiffTags tags(content);
  int num_pages = 0;
  const bool are_bands = num_channels != 1 && num_channels != 3;
  const std::uint32_t first = tags.first_page();
  for (std::uint32_t page = first; page != 0; page = tags.next_page(page)) {
    const auto get = [&](TiffTags::Tag tag, std::uint32_t fallback) {
      return tags.get(page, tag, fallback);
    };
    const std::uint32_t bits = get(TiffTags::kBits, 1), samples = get(TiffTags::kSamples, 1);
    const std::uint32_t colors = get(TiffTags::kPhotometric, 0);
    bool is_read = get(TiffTags::kSampleFormat, 1) == 1 && (bits == 8 || bits == 16 || bits == 1) &&
                   colors <= (bits == 8 ? 3 : 2);
    if (are_bands) {
      is_read &= samples == 1 && bits != 1 && colors == 1 && get(TiffTags::kOrientation, 1) == 1;
      for (const auto tag : {TiffTags::kWidth, TiffTags::kHeight, TiffTags::kBits})
        is_read &= get(tag, 1) == tags.get(first, tag, 1);
    } else {
      const bool is_rgb = samples == 3 && bits != 1 && get(TiffTags::kPlanar, 1) == 1;
      is_read &= colors == 2 ? is_rgb : samples == 1;
      for (unsigned index = 1; index < samples && is_read; ++index)
        is_read &= tags.get(page, TiffTags::kBits, bits, index) == bits;
    }
    if (!is_read)
      fail(path, ": a TIFF of ", samples, " x ", bits, " bits per pixel; this program reads ",
           are_bands ? "grey pages of one size" : "1 or 3 interleaved bands",
           " of 8 or 16 unsigned bits. ", kRemedy);
    if (++num_pages > num_channels || !are_bands) break;
  }
  if (are_bands && num_pages != num_channels)
    fail(path, ": expected a TIFF of ", num_channels, " pages, one per band. Use ",
         "deploy/python/infer.py for bands that are stored otherwise.");
}

}  // namespace

ImageFormat image_format(const std::string& path, const Bytes& bytes) {
  const std::string_view content = view(bytes);
  if (has_at(content, 0, "\xff\xd8\xff")) return ImageFormat::kJpeg;
  if (has_at(content, 0, "\x89PNG\r\n\x1a\n")) return ImageFormat::kPng;
  if (has_at(content, 0, "BM")) return ImageFormat::kBmp;
  if (has_at(content, 0, "RIFF") && has_at(content, 8, "WEBP")) return ImageFormat::kWebp;
  if (has_at(content, 0, {"II*\0", 4}) || has_at(content, 0, {"MM\0*", 4}))
    return ImageFormat::kTiff;
  if (has_at(content, 0, {"II+\0", 4}) || has_at(content, 0, {"MM\0+", 4}))
    fail(path, ": a BigTIFF, which this program does not read. ", kRemedy);
  fail(path, ": cannot be decoded as an image. Replace it or remove it; known formats: JPEG, PNG, ",
       "BMP, WEBP, TIFF.");
}

void check_image(const std::string& path, const Bytes& bytes, int num_channels) {
  const std::string_view content = view(bytes);
  exif_orientation(path, bytes);
  switch (image_format(path, bytes)) {
    case ImageFormat::kJpeg:
      return check_jpeg(path, content);
    case ImageFormat::kPng:
      return check_png(path, content);
    case ImageFormat::kBmp:
      return check_bmp(path, content);
    case ImageFormat::kTiff:
      return check_tiff(path, content, num_channels);
    case ImageFormat::kWebp:
      return;
  }
}

bool has_16_bits(const Bytes& bytes) {
  const std::string_view content = view(bytes);
  if (has_at(content, 0, "\x89PNG")) return number(content, 24, 1, true) == 16;
  if (!has_at(content, 0, "II") && !has_at(content, 0, "MM")) return false;
  const TiffTags tags(content);
  return tags.get(tags.first_page(), TiffTags::kBits, 1) == 16;
}

bool is_grey_png(const Bytes& bytes) {
  const std::string_view content = view(bytes);
  const std::uint32_t bits = number(content, 24, 1, true),
                      color_type = number(content, 25, 1, true);
  return has_at(content, 0, "\x89PNG") && (bits == 8 || bits == 16) && color_type == 0;
}

bool is_white_zero(const Bytes& bytes) {
  const TiffTags tags(view(bytes));
  return tags.get(tags.first_page(), TiffTags::kPhotometric, 1) == 0;
}

int exif_orientation(const std::string& path, const Bytes& bytes) {
  const std::string_view content = view(bytes);
  std::string_view exif;
  switch (image_format(path, bytes)) {
    case ImageFormat::kJpeg:
      exif = find_segment(content);
      break;
    case ImageFormat::kPng:
      exif = find_chunk(content, "eXIf");
      break;
    case ImageFormat::kWebp:
      exif = find_chunk(content, "EXIF");
      break;
    case ImageFormat::kBmp:
    case ImageFormat::kTiff:
      break;
  }
  if (has_at(exif, 0, {"Exif\0\0", 6})) exif.remove_prefix(6);
  const TiffTags tags(exif);
  if (!tags.is_short(tags.first_page(), TiffTags::kOrientation))
    fail(path, ": its EXIF orientation is not one number of 16 bits. ", kRemedy);
  return static_cast<int>(tags.get(tags.first_page(), TiffTags::kOrientation, 1));
}

}  // namespace segment
