// Images in, label maps and overlays out; the same files as deploy/python/infer.py.
#pragma once

#include <filesystem>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

namespace segment {

/// Reads an image of so many channels, colours in the order red, green, blue; 8 bits, or float32
/// where more are stored and the file is not converted to 1 or 3 channels. The array is Python's;
/// throws Error for files of other kinds.
cv::Mat read_image(const std::filesystem::path& path, int num_channels);

/// Reads class ids from a grey PNG of 8 or 16 bits, as 16 bits.
cv::Mat read_label(const std::filesystem::path& path);

/// Writes class ids as a PNG: 8 bits with the classes' colours, or 16 bits for ids above 255.
void write_label(const std::filesystem::path& path, const cv::Mat& label,
                 const std::vector<cv::Vec3b>& palette);

/// Writes confidences (float32, 0 to 1) as a grey PNG, 255 for 1.
void write_confidence(const std::filesystem::path& path, const cv::Mat& confidence);

/// Writes the image with the classes' colours over it; ids without a class are black.
void write_overlay(const std::filesystem::path& path, const cv::Mat& image, const cv::Mat& label,
                   const std::vector<cv::Vec3b>& palette);

}  // namespace segment
