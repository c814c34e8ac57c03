#pragma once
// A frozen RMSNorm (Zhang & Sennrich, 2019). Its output is cheaper to compute again than to keep: a backward
// keeps the input and one inverse a row. Thread: compute thread. Errors: kExhausted from the device.

#include "worker/backbone/weights.h"
#include "worker/rows.h"

namespace coppice {

class Norm {
 public:
  Norm(Backend& backend, const TensorView& weight, float epsilon)
      : weight_(upload_vector(backend, weight)), epsilon_(epsilon) {}

  size_t bytes() const { return weight_.buffer.bytes(); }
  // y = norm(x), inverse_rms [rows, 1].
  void forward(Backend& backend, Matrix x, Matrix y, Matrix inverse_rms) const {
    backend.rms_norm(x, weight_.matrix, epsilon_, y, inverse_rms);
  }
  // dx = or += the gradient of x.
  void backward(Backend& backend, Matrix x, Matrix inverse_rms, Matrix dy, Matrix dx, bool accumulate) const {
    backend.rms_norm_backward(x, weight_.matrix, inverse_rms, dy, dx, accumulate);
  }

 private:
  Rows weight_;
  float epsilon_;
};

}  // namespace coppice
