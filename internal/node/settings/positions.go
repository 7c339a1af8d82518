package settings

import (
	"fmt"

	"github.com/pelletier/go-toml/v2/unstable"
)

// positions walks the syntax of a file that is known to be valid and notes
// the line of every key.
func positions(data []byte) Positions {
	pos := Positions{}
	counts := map[string]int{} // sections of each [[list]] so far
	var p unstable.Parser
	p.Reset(data)
	section := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			section = ""
			var line int
			for it := e.Key(); it.Next(); {
				section = join(section, string(it.Node().Data))
				line = p.Shape(it.Node().Raw).Start.Line
				if n := counts[section]; n > 0 && !(e.Kind == unstable.ArrayTable && it.IsLast()) {
					section = fmt.Sprintf("%s[%d]", section, n-1)
				}
			}
			if e.Kind == unstable.ArrayTable {
				counts[section]++
				section = fmt.Sprintf("%s[%d]", section, counts[section]-1)
			}
			pos.note(section, line)
		case unstable.KeyValue:
			pos.keyValue(&p, section, e)
		}
	}
	return pos
}

func (pos Positions) note(path string, line int) {
	if _, ok := pos[path]; !ok {
		pos[path] = line
	}
}

func (pos Positions) keyValue(p *unstable.Parser, section string, e *unstable.Node) {
	path := section
	for it := e.Key(); it.Next(); {
		path = join(path, string(it.Node().Data))
		pos.note(path, p.Shape(it.Node().Raw).Start.Line)
	}
	pos.value(p, path, e.Value())
}

// value notes the keys inside inline tables.
func (pos Positions) value(p *unstable.Parser, path string, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			pos.keyValue(p, path, it.Node())
		}
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			pos.value(p, fmt.Sprintf("%s[%d]", path, i), it.Node())
			i++
		}
	}
}
