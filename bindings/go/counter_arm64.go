// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

// cpuCounter is the page's name for this CPU's counter.
const cpuCounter = CounterArmCNTVCT
