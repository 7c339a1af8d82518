package conf

import (
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

func TestDurationInAFile(t *testing.T) {
	var c struct{ Wait Duration }
	if err := toml.Unmarshal([]byte(`wait = "90s"`), &c); err != nil || c.Wait.Std() != 90*time.Second {
		t.Fatal(c, err)
	}
	if err := toml.Unmarshal([]byte(`wait = "soon"`), &c); err == nil {
		t.Fatal("a word is no duration")
	}
	b, err := toml.Marshal(c)
	if err != nil || string(b) != "Wait = '1m30s'\n" {
		t.Fatalf("%q %v", b, err)
	}
}
