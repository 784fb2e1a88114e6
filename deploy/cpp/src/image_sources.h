// Which images a path means, and how their results are named: as in deploy/python/infer.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace segment {

struct ImageFile {
  std::filesystem::path path;
  std::string name;  // of its results: relative to their folder, without a suffix
};

/// Returns the images of a file, a folder with its sub-folders, or a list file (.txt). Folders of
/// earlier results are no images to predict.
std::vector<ImageFile> find_images(const std::filesystem::path& path,
                                   const std::vector<std::filesystem::path>& results);

}  // namespace segment
