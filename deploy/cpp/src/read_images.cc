// What the C++ programs make of files, for tests.
//
//   read_images LIST OUT
//     LIST holds a number of channels and a path per line, 0 for a label. For each, a line is
//     printed: height, width, channels and bytes per value of the array that is then in
//     OUT/<line number>, or what was wrong. -1 stands for a deploy.yaml: its classes are counted.
//   read_images --find PATH RESULTS...
//     prints the images that PATH means: path, tab, name.
#include <fstream>
#include <iostream>
#include <opencv2/core/utils/logger.hpp>
#include <string>

#include "deploy_config.h"
#include "files.h"
#include "image_io.h"
#include "image_sources.h"

namespace {

void find(const char* path, const std::vector<std::filesystem::path>& results) {
  for (const segment::ImageFile& image : segment::find_images(path, results))
    std::cout << image.path.string() << "\t" << image.name << std::endl;
}

void read(const std::string& path, int channels, const std::filesystem::path& out) {
  if (channels < 0) {
    std::cout << segment::DeployConfig::load(path).classes.size() << " classes" << std::endl;
    return;
  }
  const cv::Mat found =
      channels == 0 ? segment::read_label(path) : segment::read_image(path, channels);
  const cv::Mat image = found.clone();  // its rows are adjacent
  segment::write_bytes(out, {image.datastart, image.dataend});
  std::cout << image.rows << " " << image.cols << " " << image.channels() << " "
            << image.elemSize1() << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
  const auto reported = [](const auto& action) {
    try {
      action();
    } catch (const std::exception& error) {
      std::cout << "refused: " << error.what() << std::endl;
    }
  };
  if (argc < 3) return 2;
  if (argv[1] == std::string("--find")) {
    reported([&] { find(argv[2], {argv + 3, argv + argc}); });
    return 0;
  }
  std::ifstream list(argv[1]);
  std::string path;
  int channels;
  for (int number = 0; list >> channels && std::getline(list >> std::ws, path); ++number)
    reported(
        [&] { read(path, channels, std::filesystem::path(argv[2]) / std::to_string(number)); });
}
