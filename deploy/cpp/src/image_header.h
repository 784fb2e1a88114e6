// What the headers of image files say, checked before OpenCV decodes them: it reads some kinds in
// another way than deploy/python/infer.py, or in ways that depend on its version.
#pragma once

#include <string>

#include "files.h"

namespace segment {

enum class ImageFormat { kJpeg, kPng, kBmp, kWebp, kTiff };

/// Returns the format that a file's first bytes tell; throws Error for one that is not read.
ImageFormat image_format(const std::string& path, const Bytes& content);

/// Throws Error for a file that this program does not read as infer.py does.
void check_image(const std::string& path, const Bytes& content, int num_channels);

/// Tells whether a PNG or TIFF holds 16 bits per value.
bool has_16_bits(const Bytes& content);

/// Tells whether a PNG holds grey values of 8 or 16 bits.
bool is_grey_png(const Bytes& content);

/// Tells whether 0 is white in a TIFF.
bool is_white_zero(const Bytes& content);

/// Returns how a JPEG, PNG or WebP is to be turned, 1 to 8 as EXIF counts; 1 for other formats:
/// OpenCV turns TIFF in all versions.
int exif_orientation(const std::string& path, const Bytes& content);

}  // namespace segment
