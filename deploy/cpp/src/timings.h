// The time that each step takes, for each image.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace segment {

enum class Step { kDecode, kPreprocess, kNetwork, kUpsample, kWrite };

class Timings {
 public:
  /// Begins the next image; what an image took that failed is passed over.
  void begin_image() { current_.fill(0); }
  void end_image() { images_.push_back(current_); }

  /// Adds the seconds from here to the end of the block to a step.
  class Scope {
   public:
    Scope(Timings& timings, Step step) : timings_(timings), step_(step) {}
    ~Scope() {
      const std::chrono::duration<double, std::milli> elapsed = Clock::now() - start_;
      timings_.current_[static_cast<std::size_t>(step_)] += elapsed.count();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    using Clock = std::chrono::steady_clock;
    Timings& timings_;
    Step step_;
    Clock::time_point start_ = Clock::now();
  };

  /// Returns a line for each step with its median over the images, in ms.
  std::string report() const;

 private:
  static constexpr std::size_t kNumSteps = 5;
  std::array<double, kNumSteps> current_{};
  std::vector<std::array<double, kNumSteps>> images_;
};

}  // namespace segment
