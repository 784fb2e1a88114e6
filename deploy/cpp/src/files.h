// Whole files: read, compared with a checksum, written so that none is ever half there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace segment {

using Bytes = std::vector<std::uint8_t>;

/// Throws Error if the file is missing, empty or cannot be read.
Bytes read_bytes(const std::filesystem::path& path);

/// Returns the checksum in hexadecimal digits.
std::string sha256(const std::filesystem::path& path);

/// Writes beside the destination, then renames onto it; folders are made as needed.
void write_bytes(const std::filesystem::path& path, const Bytes& content);

}  // namespace segment
