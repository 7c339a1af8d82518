// Package monitor decides from the results of probes in which state a monitor
// is. It is pure: results and moments in, a state and a sentence out. It knows
// no clock; moments are durations since the engine began, taken from the
// monotonic clock, so that a wall clock that jumps changes nothing.
//
// It promises:
//  1. One bad result is never proof: the rule decides, and the ladder begins at
//     the first bad result only once the rule says red.
//  2. Red time adds up until the rule was green for longer than Calm: what flaps
//     climbs the ladder, and no ladder begins anew.
//  3. Silence of a probe is no red result. It is shown as Unavailable, and the
//     machine goes on below.
//  4. What it keeps is bounded: at most maxSamples results for each monitor.
package monitor
