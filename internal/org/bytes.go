package org

import "fmt"

// Bytes is a size. People see it in binary units, JSON has the number.
type Bytes int64

// String is the size in the largest unit that leaves at least one, as "1.5 GiB".
func (b Bytes) String() string {
	const units = "KMGTPE"
	size, unit := float64(b), -1
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if unit < 0 {
		return fmt.Sprintf("%d B", int64(b))
	}
	return fmt.Sprintf("%.1f %ciB", size, units[unit])
}
