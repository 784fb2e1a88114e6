#include "timings.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace segment {

namespace {

constexpr std::array<const char*, 5> kNames = {"decode", "preprocess", "network", "upsample+argmax",
                                               "write"};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace

std::string Timings::report() const {
  if (images_.empty()) return "";
  std::ostringstream lines;
  for (std::size_t step = 0; step < kNumSteps; ++step) {
    std::vector<double> values;
    for (const auto& image : images_) values.push_back(image[step]);
    lines << std::left << std::setw(16) << kNames[step] << std::right << std::setw(10) << std::fixed
          << std::setprecision(1) << median(values) << "\n";
  }
  return lines.str();
}

}  // namespace segment
